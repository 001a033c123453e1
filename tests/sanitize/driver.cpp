// The kernels alone, under sanitizers (make sanitize): the programs of several cells, at sizes that fit no vector, on
// every instruction set that the machine has, by one thread and by more. Every array is just as long as it must be, so
// that an overrun is seen, and what is made is NaN before, so that a gap is.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <thread>
#include <type_traits>

#include "reader.h"

// Races are looked for where there are threads: at large sizes, on the best instruction set alone.
#ifdef SANITIZE_thread
constexpr bool RACES = true;
#else
constexpr bool RACES = false;
#endif

#ifdef SANITIZE_address
// The kernels' own memory likewise: none is used again, or longer than was asked for.
void *gatewise::take_memory(int64_t bytes) {
    void *data = nullptr;
    if (bytes > 0 && posix_memalign(&data, 64, bytes)) throw std::bad_alloc();
    return data ? std::memset(data, 0xff, bytes) : nullptr;
}
void gatewise::give_memory(void *data, int64_t) { std::free(data); }
#else
#include "memory.cpp"
#endif

using namespace gatewise;

namespace {

// In one run: sequences' lengths, resets, the reverse direction, one-hot input; x with the batch's axis first; the
// projection of x apart; a gradient of the last states alone; and nothing that may be left out.
enum Options { LENGTHS = 1, RESETS = 2, FLIP = 4, INDICES = 8, BATCH_FIRST = 16, APART = 32, LAST = 64, BARE = 128 };
const std::vector<int> MANY = {0, LENGTHS | FLIP, RESETS | LAST, LENGTHS | RESETS | FLIP | BARE, INDICES | BARE,
                               INDICES | FLIP | RESETS, BATCH_FIRST | LENGTHS, APART | LENGTHS | RESETS, APART | BARE};
const std::vector<int> FEW = {FLIP, LENGTHS | RESETS | INDICES};

// The large ones are enough work for threads: with units of their own, and with rows of their own.
struct Size {
    int64_t T, B, I, H;
    bool large;
};
const Size SIZES[] = {{1, 1, 3, 5, false},   {3, 2, 7, 17, false},  {7, 1, 5, 33, false},   {1, 3, 6, 150, false},
                      {9, 33, 4, 20, false}, {9, 5, 64, 48, false}, {7, 13, 16, 130, true}, {41, 27, 7, 33, true}};

struct Cell {
    std::string name;
    std::vector<int32_t> states, extras, masks, turns;
    bool projected;
    int64_t vectors;
    Program forward, keeping, backward;
};

[[noreturn]] void fail(const std::string &what) {
    std::fprintf(stderr, "sanitize: %s\n", what.c_str());
    std::exit(1);
}

template <class Real> using Arrays = std::vector<std::vector<Real>>;

// A cell's random arrays at some size, and what the kernels make of them.
template <class Real> struct Trial {
    const Cell &cell;
    const Size n;
    const int options;
    const int64_t P;
    std::vector<Real> x, weight_ih, bias_ih, weight_hh, bias_hh, weight_hr, vectors, initial, g_output;
    Arrays<Real> states, masks, g_finals;
    std::vector<int64_t> indices;
    std::vector<uint8_t> resets, active;
    uint64_t seed = 1;

    Trial(const Cell &cell, const Size &n, int options)
        : cell(cell), n(n), options(options), P(cell.projected ? n.H / 2 + 1 : n.H) {
        const int64_t steps = n.T * n.B, width = cell.forward.input_gates * n.H, gates = cell.forward.hidden_gates;
        const double scale = 1 / std::sqrt(double(n.H));
        if (has(INDICES))
            for (int64_t i = 0; i < steps; i++) indices.push_back(int64_t((random() + 1) / 2 * n.I));
        else
            x = some(steps * (has(APART) ? width : n.I));
        if (!has(APART)) weight_ih = some(width * n.I, scale);
        weight_hh = some(gates * n.H * P, scale), weight_hr = some(cell.projected ? P * n.H : 0, scale);
        vectors = some(cell.vectors * n.H);
        if (!has(BARE)) bias_hh = some(gates * n.H), bias_ih = some(has(APART) ? 0 : width);
        if (!has(LAST)) g_output = some(steps * size(cell.states[0]));
        int64_t all = 0;
        for (int32_t s : cell.states) {
            all += size(s);
            states.push_back(some(has(BARE) ? 0 : n.B * size(s))), g_finals.push_back(some(states.back().size()));
        }
        for (size_t i = 0; i < cell.masks.size(); i++)
            masks.push_back(some((cell.turns[i] ? steps : n.B) * size(cell.masks[i])));
        if (has(RESETS)) {
            initial = some(all);
            for (int64_t i = 0; i < steps; i++) resets.push_back(random() > 0.3);
        }
        for (int64_t i = 0; has(LENGTHS) && i < steps; i++) active.push_back(i / n.B <= i % n.B);
    }

    bool has(int option) const { return options & option; }
    int64_t size(int32_t s) const { return s == 2 ? 1 : s ? P : n.H; }
    double random() {  // in [-1, 1)
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        return double(seed >> 11) / double(uint64_t(1) << 52) - 1;
    }
    std::vector<Real> some(int64_t count, double scale = 1) {
        std::vector<Real> made(count);
        for (Real &value : made) value = Real(random() * scale);
        return made;
    }
    static const void *at(const std::vector<Real> &array) { return array.empty() ? nullptr : array.data(); }

    // All that is made: by the steps forward (output and last states), forward keeping, and backward.
    Arrays<Real> run(int isa, int64_t threads, Type type = sizeof(Real) == 8 ? FLOAT64 : FLOAT32) const {
        Arrays<Real> made;
        auto make = [&](int64_t count, Real value = NAN) {
            made.emplace_back(count, value);
            return count ? made.back().data() : nullptr;
        };
        auto like = [&](const std::vector<Real> &array) { return make(int64_t(array.size())); };
        auto go = [&](const Program &program, const Run &run) {
            (type == BFLOAT16 ? kernels(isa).run_pairs : kernels(isa).run)(program, run, type);
        };
        const int64_t steps = n.T * n.B, width = has(APART) ? cell.forward.input_gates * n.H : n.I;
        Run run = {};
        run.flip = has(FLIP), run.threads = threads;
        run.T = n.T, run.B = n.B, run.I = has(APART) ? 0 : n.I, run.H = n.H, run.P = P;
        run.x_step = has(INDICES) ? n.B : has(BATCH_FIRST) ? width : n.B * width;
        run.x_row = has(INDICES) ? 1 : has(BATCH_FIRST) ? n.T * width : width;
        run.x = at(x), run.indices = indices.empty() ? nullptr : indices.data();
        run.weight_ih = at(weight_ih), run.bias_ih = at(bias_ih);
        run.weight_hh = at(weight_hh), run.bias_hh = at(bias_hh), run.weight_hr = at(weight_hr);
        run.vectors = at(vectors), run.initial = at(initial);
        run.resets = has(RESETS) ? resets.data() : nullptr, run.active = has(LENGTHS) ? active.data() : nullptr;
        for (const auto &state : states) run.states.push_back(at(state));
        for (const auto &mask : masks) run.masks.push_back(at(mask));
        run.mask_turns.assign(cell.turns.begin(), cell.turns.end());

        run.news = {make(steps * size(cell.states[0]))};
        run.news.resize(states.size());
        for (int32_t s : cell.states) run.finals.push_back(make(n.B * size(s)));
        go(cell.forward, run);

        run.news.clear(), run.finals.clear();
        for (int32_t s : cell.states) run.news.push_back(make(steps * size(s)));
        for (int32_t s : cell.states) run.finals.push_back(make(n.B * size(s)));
        for (int32_t s : cell.extras) run.keeps.push_back(make(steps * size(s)));
        go(cell.keeping, run);

        run.finals.clear();
        run.g_seen = {at(g_output)};
        int64_t all = 0;
        for (size_t k = 0; k < states.size(); k++) {
            run.g_finals.push_back(at(g_finals[k])), run.g_states.push_back(like(states[k]));
            all += size(cell.states[k]);
        }
        if (has(RESETS)) run.g_initial = make(n.B * all, 0);  // what is given to it is added
        for (int32_t c : cell.backward.columns) {
            const Holder &h = cell.backward.arrays[c];
            if (has(APART)) run.columns.push_back(make(steps * size(h.size) * h.parts));
        }
        if (!has(APART)) {
            run.g_weight_hh = like(weight_hh), run.g_weight_hr = like(weight_hr), run.g_bias_hh = like(bias_hh);
            if (!has(BARE)) run.g_x = like(x), run.g_weight_ih = like(weight_ih), run.g_bias_ih = like(bias_ih);
            if (!has(BARE)) run.g_vectors = like(vectors);
        }
        go(cell.backward, run);
        return made;
    }
};

// Which array is not as expected, by more than rounding, or not finite; empty if none is.
template <class Real>
std::string difference(const Arrays<Real> &made, const Arrays<Real> &expected, double tolerance = sizeof(Real) == 8 ? 1e-11 : 1e-4) {
    for (size_t i = 0; i < expected.size(); i++) {
        double largest = 1, apart = 0;
        for (size_t k = 0; k < expected[i].size(); k++) {
            if (!std::isfinite(made[i][k])) return "array " + std::to_string(i) + " is not finite";
            largest = std::max<double>(largest, std::abs(expected[i][k]));
            apart = std::max<double>(apart, std::abs(made[i][k] - expected[i][k]));
        }
        if (apart > largest * tolerance)
            return "array " + std::to_string(i) + " differs by " + std::to_string(apart / largest);
    }
    return "";
}

template <class Real> void check(const Trial<Real> &trial, const Arrays<Real> &expected, int isa, int64_t threads) {
    std::string what = difference<Real>(trial.run(isa, threads), expected);
    if (sizeof(Real) == 4 && kernels(isa).run_pairs != kernels(isa).run && what.empty()) {
        what = difference<Real>(trial.run(isa, threads, BFLOAT16), expected, 1);  // a cell may have steps
        if (!what.empty()) what = "in pairs, " + what;
    }
    if (what.empty()) return;
    const Size &n = trial.n;
    char where[200];
    std::snprintf(where, sizeof where, ", T=%d B=%d I=%d H=%d, options %d, %d bytes, %s, %d threads: ", int(n.T),
                  int(n.B), int(n.I), int(n.H), trial.options, int(sizeof(Real)), kernels(isa).name, int(threads));
    fail(trial.cell.name + where + what);
}

template <class Real> void every_way(const Cell &cell, const Size &n, int options) {
    const Trial<Real> trial(cell, n, options);
    const Arrays<Real> expected = trial.run(1, 1);
    if (!difference<Real>({expected[0]}, {expected[1 + cell.states.size()]}).empty())
        fail(cell.name + ": forward is not what it is with what backward needs");
    for (int isa = RACES ? 0 : 1;; isa++) {
        const bool best = &kernels(isa) == &kernels(0);
        for (int64_t threads = n.large && best ? 1 : 3; threads <= 3; threads++) check(trial, expected, isa, threads);
        if (best) break;
    }
}

// Two callers at once, each with threads of its own.
void two_callers(const Cell &cell, const Size &n) {
    const Trial<float> trial(cell, n, 0);
    const Arrays<float> expected = trial.run(0, 1);
    Arrays<float> made[2];
    std::thread other([&] { made[1] = trial.run(0, 2); });
    made[0] = trial.run(0, 2);
    other.join();
    for (const auto &one : made) {
        const std::string what = difference(one, expected);
        if (!what.empty()) fail(cell.name + ", two callers at once: " + what);
    }
}

// Children that call, forked while other threads do, and take memory. The address and the thread sanitizer have locks
// of their own, which a child may find locked for ever.
void forked(const Cell &cell, const Size &n) {
#ifdef SANITIZE_undefined
    const Trial<float> trial(cell, n, 0);
    const Arrays<float> expected = trial.run(0, 1);
    std::atomic<bool> done{false};
    std::thread caller([&] {
        while (!done) trial.run(0, 2);
    });
    std::thread taker([&] {
        while (!done) give_memory(take_memory(1 << 20), 1 << 20);
    });
    for (int k = 0; k < 4; k++) {
        const pid_t child = fork();
        if (!child) {
            alarm(60);
            _exit(!difference(trial.run(0, 2), expected).empty());
        }
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            fail(cell.name + ": a forked child failed or hung");
    }
    done = true;
    caller.join(), taker.join();
#else
    (void)cell, (void)n;
#endif
}

void read_program(Program &program, Reader &in) {
    int64_t count = in.next();
    Reader integers{in.p, in.p + count};
    in.p += count, count = in.next();
    std::vector<double> numbers(count);
    if (count) std::memcpy(numbers.data(), in.p, count * 8);
    in.p += count;
    if (!read(program, integers, numbers.data(), count) || integers.p != integers.end) fail("a program can't be read");
}

}  // namespace

int main(int, char **arguments) {
    std::ifstream file(arguments[1], std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::vector<int64_t> words(bytes.size() / 8);
    std::memcpy(words.data(), bytes.data(), words.size() * 8);
    Reader in{words.data(), words.data() + words.size()};
    for (int64_t left = in.next(); left > 0; left--) {
        Cell cell;
        for (int32_t letter : in.list()) cell.name += char(letter);
        cell.states = in.list(), cell.extras = in.list(), cell.masks = in.list(), cell.turns = in.list();
        cell.projected = in.next(), cell.vectors = in.next();
        for (Program *program : {&cell.forward, &cell.keeping, &cell.backward}) read_program(*program, in);
        for (const Size &n : SIZES) {
            if (!n.large && RACES) continue;
            for (int options : n.large ? FEW : MANY) {
                every_way<float>(cell, n, options);
                if (!RACES) every_way<double>(cell, n, options);
            }
            if (n.large) two_callers(cell, n);
            if (n.large && left == 1) forked(cell, n);
        }
    }
    if (!in.good || in.p != in.end || words.empty()) fail("the file of programs is not whole");
}
