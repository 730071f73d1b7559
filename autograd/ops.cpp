// Each op ends in record(value, inputs, [captured] …): the capture list is all that its backward pass keeps.
#include "autograd/ops.h"

#include "tensor/ops.h"

namespace uipe::autograd {

namespace t = tensor;

namespace {

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

/// An uninitialised tensor in the accumulator's type of `x`.
Tensor accumulator(const Tensor& x, t::Shape shape) {
    return Tensor::empty(std::move(shape), t::accumulator_of(x.dtype()), x.device());
}

/// Of a sum of all inputs.
void add_backward(const Tensor& dy, std::span<Sink> in) {
    for (Sink& sink : in)
        if (sink.wanted()) sink.add(dy);
}

}  // namespace

Variable add(const Variable& a, const Variable& b) {
    Tensor y = like(a.value());
    t::add(y, a.value(), b.value());
    return record(y, {a, b}, add_backward);
}

Variable mul(const Variable& a, const Variable& b) {
    Tensor y = like(a.value());
    t::mul(y, a.value(), b.value());
    return record(y, {a, b},
                  [p = b.requires_grad() ? a.value() : Tensor(), q = a.requires_grad() ? b.value() : Tensor()](
                      const Tensor& dy, std::span<Sink> in) {
                      if (in[0].wanted()) t::mul(in[0].grad, dy, q, in[0].accumulate);
                      if (in[1].wanted()) t::mul(in[1].grad, dy, p, in[1].accumulate);
                  });
}

Variable scale(const Variable& x, double a) {
    Tensor y = like(x.value());
    t::axpby(y, a, x.value(), 0.0);
    return record(y, {x}, [a](const Tensor& dy, std::span<Sink> in) { in[0].add(dy, a); });
}

Variable log_sigmoid(const Variable& x) {
    Tensor y = like(x.value());
    t::log_sigmoid(y, x.value());
    return record(y, {x}, [v = x.value()](const Tensor& dy, std::span<Sink> in) {
        t::log_sigmoid_backward(in[0].grad, dy, v, in[0].accumulate);
    });
}

Variable sum(const Variable& x) {
    Tensor y = Tensor::empty({1}, x.value().dtype(), x.value().device());
    t::sum(y, x.value());
    return record(y, {x},
                  [](const Tensor& dy, std::span<Sink> in) { t::sum_backward(in[0].grad, dy, in[0].accumulate); });
}

Variable rows(const Variable& x, std::int64_t begin, std::int64_t end) {
    const std::int64_t all = x.value().dim(0);
    if (begin == 0 && end == all) return x;
    return record(
        x.value().rows(begin, end), {x},
        [begin, end, all](const Tensor& dy, std::span<Sink> in) {
            const Tensor& dx = in[0].grad;
            if (!in[0].accumulate) {
                t::fill(dx.rows(0, begin), 0.0);
                t::fill(dx.rows(end, all), 0.0);
            }
            t::axpby(dx.rows(begin, end), 1.0, dy, in[0].accumulate ? 1.0 : 0.0);
        },
        [kept = x.saved(), begin, end] { return kept.get().rows(begin, end); });
}

Variable squared_distance(const Variable& x, const Tensor& y) {
    Tensor d = accumulator(x.value(), {x.value().dim(0)});
    t::squared_distance(d, x.value(), y);
    // Not x.saved(): the loss reads it, when the weights that would make x again may not be there yet.
    return record(d, {x}, [v = x.value(), y](const Tensor& dd, std::span<Sink> in) {
        t::squared_distance_backward(in[0].grad, dd, v, y, in[0].accumulate);
    });
}

Variable segment_sum(const Variable& x, const Tensor& cu_seqlens) {
    Tensor y = Tensor::empty({cu_seqlens.numel() - 1}, x.value().dtype(), x.value().device());
    t::segment_sum(y, x.value(), cu_seqlens);
    return record(y, {x}, [cu_seqlens](const Tensor& dy, std::span<Sink> in) {
        t::segment_sum_backward(in[0].grad, dy, cu_seqlens, in[0].accumulate);
    });
}

Variable linear(const Variable& x, const Variable& w) {
    Tensor y = Tensor::empty({x.value().dim(0), w.value().dim(0)}, x.value().dtype(), x.value().device());
    t::matmul(y, x.value(), false, w.value(), true);
    return record(y, {x, w},
                  [input = w.requires_grad() ? x.saved() : Saved(), w](const Tensor& dy, std::span<Sink> in) {
                      if (in[0].wanted()) t::matmul(in[0].grad, dy, false, w.value(), false, in[0].accumulate);
                      if (in[1].wanted()) t::matmul(in[1].grad, dy, true, input.get(), false, in[1].accumulate);
                  });
}

Variable embedding(const Variable& table, const Tensor& tokens) {
    Tensor y = Tensor::empty({tokens.numel(), table.value().dim(1)}, table.value().dtype(), table.value().device());
    t::embedding(y, table.value(), tokens);
    return record(y, {table}, [tokens](const Tensor& dy, std::span<Sink> in) {
        t::embedding_backward(in[0].zeroed(), dy, tokens);
    });
}

namespace {

/// y = rmsnorm(x), which has been computed, on the tape.
Variable normed(const Variable& x, const Variable& w, double eps, const Tensor& y, const Tensor& rstd) {
    return record(
        y, {x, w},
        [input = x.value(), w, rstd](const Tensor& dy, std::span<Sink> in) {
            const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
            t::rmsnorm_backward(in[0].grad, dw, dy, input, w.value(), rstd, in[0].accumulate);
        },
        [input = x.value(), w, rstd, eps] {
            Tensor again = like(input);
            t::rmsnorm(again, rstd, input, w.value(), eps);
            return again;
        });
}

}  // namespace

Variable rmsnorm(const Variable& x, const Variable& w, double eps) {
    const Tensor y = like(x.value());
    const Tensor rstd = accumulator(x.value(), {x.value().dim(0)});
    t::rmsnorm(y, rstd, x.value(), w.value(), eps);
    return normed(x, w, eps, y, rstd);
}

std::pair<Variable, Variable> add_rmsnorm(const Variable& x, const Variable& r, const Variable& w, double eps) {
    const Tensor h = like(x.value());
    const Tensor y = like(h);
    const Tensor rstd = accumulator(h, {h.dim(0)});
    t::add_rmsnorm(h, y, rstd, x.value(), r.value(), w.value(), eps);
    const Variable sum = record(h, {x, r}, add_backward);
    return {sum, normed(sum, w, eps, y, rstd)};
}

Variable swiglu(const Variable& gate, const Variable& up) {
    const auto run = [g = gate.value(), u = up.value()] {
        Tensor y = like(g);
        t::swiglu(y, g, u);
        return y;
    };
    return record(
        run(), {gate, up},
        [g = gate.value(), u = up.value()](const Tensor& dy, std::span<Sink> in) {
            for (Sink& sink : in)
                if (!sink.wanted()) sink.grad = like(dy);
            t::swiglu_backward(in[0].grad, in[1].grad, dy, g, u, in[0].accumulate, in[1].accumulate);
        },
        run);
}

Variable rope(const Variable& x, const Tensor& positions, std::int64_t head_dim, double theta) {
    Tensor y = like(x.value());
    t::rope(y, x.value(), positions, head_dim, theta, false);
    return record(y, {x}, [positions, head_dim, theta](const Tensor& dy, std::span<Sink> in) {
        t::rope(in[0].grad, dy, positions, head_dim, theta, true, in[0].accumulate);
    });
}

Variable dropout(const Variable& x, const Tensor& places, double p, std::uint64_t seed, std::uint64_t stream) {
    if (p == 0.0) return x;
    const auto run = [places, p, seed, stream](const Tensor& input) {
        Tensor y = like(input);
        t::dropout(y, input, places, p, seed, stream);
        return y;
    };
    return record(
        run(x.value()), {x},
        [places, p, seed, stream](const Tensor& dy, std::span<Sink> in) {
            t::dropout(in[0].grad, dy, places, p, seed, stream, in[0].accumulate);
        },
        [run, input = x.saved()] { return run(input.get()); });
}

Variable attention(const Variable& q, const Variable& k, const Variable& v, const Tensor& cu_seqlens,
                   std::int64_t head_dim) {
    Tensor out = like(q.value());
    Tensor lse = accumulator(q.value(), {q.value().dim(0), q.value().dim(1) / head_dim});
    t::attention(out, lse, q.value(), k.value(), v.value(), cu_seqlens, cu_seqlens, head_dim);
    return record(out, {q, k, v},
                  [query = q.value(), key = k.value(), value = v.value(), out, lse, cu_seqlens, head_dim](
                      const Tensor& dy, std::span<Sink> in) {
                      const Tensor* shapes[] = {&query, &key, &value};
                      for (std::size_t i = 0; i < 3; ++i)
                          if (!in[i].wanted()) in[i].grad = like(*shapes[i]);
                      t::attention_backward(in[0].grad, in[1].grad, in[2].grad, dy, query, key, value, out, lse,
                                            cu_seqlens, head_dim, in[0].accumulate, in[1].accumulate, in[2].accumulate);
                  });
}

namespace {

/// Where a head leaves its gradient by the logits for the backward pass: n rows, or nothing when no gradient will be
/// asked for, or when they are too many for one head to keep and are computed again.
Tensor kept_dlogits(const Variable& hidden, const Variable& w, std::int64_t n) {
    constexpr std::int64_t most_elements = std::int64_t{1} << 26;
    const std::int64_t V = w.value().dim(0);
    const bool wanted = recording() && (hidden.requires_grad() || w.requires_grad());
    return wanted && n * V <= most_elements ? Tensor::empty({n, V}, w.value().dtype(), w.value().device()) : Tensor();
}

}  // namespace

Variable token_logprob(const Variable& hidden, const Variable& w, const Tensor& targets) {
    Tensor logp = accumulator(hidden.value(), {hidden.value().dim(0)});
    const Tensor dlogits = kept_dlogits(hidden, w, t::num_targets(targets));
    t::token_logprob(logp, hidden.value(), w.value(), targets, {}, dlogits);
    return record(logp, {hidden, w}, [h = hidden.saved(), w, targets, dlogits](const Tensor& dy, std::span<Sink> in) {
        const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
        t::token_logprob_backward(in[0].grad, dw, dy, h.get(), w.value(), targets, in[0].accumulate, dlogits);
    });
}

Variable token_kl(const Variable& hidden, const Variable& w, const Tensor& hidden_ref, const Tensor& w_ref,
                  const Tensor& mask) {
    Tensor kl = accumulator(hidden.value(), {hidden.value().dim(0)});
    const Tensor dlogits = kept_dlogits(hidden, w, t::num_taken(mask, hidden.value().dim(0)));
    t::token_kl(kl, hidden.value(), w.value(), hidden_ref, w_ref, mask, dlogits);
    return record(kl, {hidden, w},
                  [h = hidden.saved(), w, hidden_ref, w_ref, mask, dlogits](const Tensor& dy, std::span<Sink> in) {
                      const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
                      t::token_kl_backward(in[0].grad, dw, dy, h.get(), w.value(), hidden_ref, w_ref, mask,
                                           in[0].accumulate, dlogits);
                  });
}

Variable token_cross_entropy(const Variable& hidden, const Variable& w, const Tensor& hidden_ref, const Tensor& w_ref,
                             const Tensor& targets, double lowered) {
    Tensor ce = accumulator(hidden.value(), {hidden.value().dim(0)});
    const Tensor dlogits = kept_dlogits(hidden, w, t::num_targets(targets));
    t::token_cross_entropy(ce, hidden.value(), w.value(), hidden_ref, w_ref, targets, lowered, dlogits);
    return record(
        ce, {hidden, w},
        [h = hidden.saved(), w, hidden_ref, w_ref, targets, lowered, dlogits](const Tensor& dy, std::span<Sink> in) {
            const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
            t::token_cross_entropy_backward(in[0].grad, dw, dy, h.get(), w.value(), hidden_ref, w_ref, targets, lowered,
                                            in[0].accumulate, dlogits);
        });
}

namespace {

/// f(x), computed again by whoever in the backward pass comes first: the ops that read it, or its own gradient.
struct Again {
    std::function<Variable(const Variable&)> f;
    Variable x;       // a leaf
    Variable y = {};  // f(x), on a tape of its own

    const Variable& value() {
        if (!y.defined()) y = f(x);
        return y;
    }
};

}  // namespace

Variable checkpoint(const std::function<Variable(const Variable&)>& f, const Variable& x) {
    if (!recording()) return f(x);
    Tensor y;
    {
        const NoGrad guard;
        y = f(x.detach()).value();
    }
    // f may read parameters that need gradients even where x does not, so x always enters as a leaf.
    const Variable anchor = x.requires_grad() ? x : Variable::leaf(x.value());
    const auto again = std::make_shared<Again>(Again{f, Variable::leaf(x.value())});
    return record(
        y, {anchor},
        [again](const Tensor& dy, std::span<Sink> in) {
            // The ops of f add to what is there, as they would have done without checkpoint(): summed up by themselves
            // first, they would be rounded once more.
            if (in[0].accumulate)
                again->x.node()->grad = in[0].grad;
            else
                again->x.set_grad_home([home = in[0].grad] { return home; });
            const std::shared_ptr<Node> made = again->value().node();
            again->y = Variable();  // what is left of `again` may live as long as the caller's variables
            backward(made, dy);
            const bool reached = again->x.grad().defined();
            again->x.clear_grad();
            again->x.set_grad_home({});
            if (!reached) in[0].zeroed();
        },
        [again] { return again->value().value(); });
}

}  // namespace uipe::autograd
