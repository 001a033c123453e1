// Memory that is used again.
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include "program.h"

namespace gatewise {

// Pieces that wait to be used again, KEPT bytes at most. Of two threads that come at once one goes to the system, so a
// process forked meanwhile does not wait for ever.
namespace {
constexpr int64_t KEPT = int64_t(256) << 20, SMALL = 1 << 17;  // small pieces the system's allocator keeps itself
std::mutex guard;
std::multimap<int64_t, void *> waiting;
int64_t waiting_bytes = 0;
}  // namespace

void *take_memory(int64_t bytes) {
    if (bytes <= 0) return nullptr;
    bytes = (bytes + 63) / 64 * 64;
    if (bytes >= SMALL && guard.try_lock()) {
        std::lock_guard<std::mutex> lock(guard, std::adopt_lock);
        auto found = waiting.find(bytes);
        if (found != waiting.end()) {
            void *data = found->second;
            waiting_bytes -= bytes;
            waiting.erase(found);
            return data;
        }
    }
    void *data = std::aligned_alloc(64, bytes);
    if (!data) throw std::bad_alloc();
    return data;
}

void give_memory(void *data, int64_t bytes) {
    if (!data) return;
    bytes = (bytes + 63) / 64 * 64;
    if (bytes < SMALL || !guard.try_lock()) return std::free(data);
    std::lock_guard<std::mutex> lock(guard, std::adopt_lock);
    waiting.emplace(bytes, data);
    waiting_bytes += bytes;
    while (waiting_bytes > KEPT) {
        auto largest = std::prev(waiting.end());
        std::free(largest->second);
        waiting_bytes -= largest->first;
        waiting.erase(largest);
    }
}

}  // namespace gatewise
