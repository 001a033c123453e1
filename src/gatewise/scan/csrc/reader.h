// A program, read from numbers: those that program.py makes.
#pragma once
#include "program.h"

namespace gatewise {

// Reads 64-bit numbers in a row.
struct Reader {
    const int64_t *p, *end;
    bool good = true;
    int64_t next() { return p < end ? *p++ : (good = false, 0); }
    Operand operand() {
        const int32_t place = int32_t(next());
        return {place, int32_t(next())};
    }
    std::vector<int32_t> list() {
        std::vector<int32_t> made;
        for (int64_t n = next(); n > 0 && good; n--) made.push_back(int32_t(next()));
        return made;
    }
};

inline bool read(Program &program, Reader &in, const double *numbers, int64_t count) {
    auto number = [&](int64_t i) { return i < 0 || i >= count ? 0.0 : numbers[i]; };
    program.reverse = in.next();
    program.slots = int32_t(in.next());
    program.input_gates = int32_t(in.next()), program.hidden_gates = int32_t(in.next());
    for (int64_t i = 0, n = in.next(); i < n && in.good; i++) program.constants.push_back(number(i));
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Stage stage;
        stage.size = int32_t(in.next()), stage.whole = false;
        for (int64_t k = in.next(); k > 0 && in.good; k--) {
            Product product;
            product.weight = int32_t(in.next()), product.operand = int32_t(in.next());
            product.blocks = in.list(), product.to = in.list(), product.bias = in.list();
            for (size_t g = 0; g < product.to.size(); g++) product.plus.push_back(in.operand());
            stage.products.push_back(product);
        }
        for (int64_t k = in.next(); k > 0 && in.good; k--) {
            Instruction i;
            i.op = int32_t(in.next());
            i.to = in.operand(), i.a = in.operand(), i.b = in.operand(), i.c = in.operand();
            i.p = number(in.next()), i.q = number(in.next());
            if (i.op < 0 || i.op >= OPS) return false;
            stage.whole |= stage.products.empty() && i.to.place >= 0 && i.to.part;
            stage.tape.push_back(i);
        }
        program.stages.push_back(stage);
    }
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        State s;
        s.before = int32_t(in.next()), s.after = int32_t(in.next()), s.size = int32_t(in.next());
        s.came = int32_t(in.next()), s.seed = int32_t(in.next());
        program.states.push_back(s);
    }
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Holder h;
        h.kind = int32_t(in.next()), h.index = int32_t(in.next()), h.size = int32_t(in.next()), h.parts = int32_t(in.next());
        program.arrays.push_back(h);
    }
    program.columns = in.list();
    for (int64_t n = in.next(); n > 0 && in.good; n--) {
        Projected p;
        p.blocks = in.list(), p.made = int32_t(in.next()), p.read = int32_t(in.next());
        program.projected.push_back(p);
    }
    program.vectors = in.list();
    return in.good;
}

}  // namespace gatewise
