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

}  // namespace

Variable add(const Variable& a, const Variable& b) {
    Tensor y = like(a.value());
    t::add(y, a.value(), b.value());
    return record(y, {a, b}, [](const Tensor& dy, std::span<Sink> in) {
        if (in[0].wanted()) in[0].add(dy);
        if (in[1].wanted()) in[1].add(dy);
    });
}

Variable mul(const Variable& a, const Variable& b) {
    Tensor y = like(a.value());
    t::mul(y, a.value(), b.value());
    return record(y, {a, b}, [p = a.value(), q = b.value()](const Tensor& dy, std::span<Sink> in) {
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
    return record(
        y, {x, w},
        [input = w.requires_grad() ? x.saved() : Saved(), weight = w.value()](const Tensor& dy, std::span<Sink> in) {
            if (in[0].wanted()) t::matmul(in[0].grad, dy, false, weight, false, in[0].accumulate);
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

Variable rmsnorm(const Variable& x, const Variable& w, double eps) {
    Tensor rstd = accumulator(x.value(), {x.value().dim(0)});
    const auto run = [input = x.value(), weight = w.value(), eps](const Tensor& scale) {
        Tensor y = like(input);
        t::rmsnorm(y, scale, input, weight, eps);
        return y;
    };
    return record(
        run(rstd), {x, w},
        [input = x.value(), weight = w.value(), rstd](const Tensor& dy, std::span<Sink> in) {
            const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
            t::rmsnorm_backward(in[0].grad, dw, dy, input, weight, rstd, in[0].accumulate);
        },
        [run, rstd] { return run(rstd); });
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
    return record(logp, {hidden, w},
                  [h = hidden.saved(), weight = w.value(), targets, dlogits](const Tensor& dy, std::span<Sink> in) {
                      const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
                      t::token_logprob_backward(in[0].grad, dw, dy, h.get(), weight, targets, in[0].accumulate,
                                                dlogits);
                  });
}

Variable token_kl(const Variable& hidden, const Variable& w, const Tensor& hidden_ref, const Tensor& w_ref,
                  const Tensor& mask) {
    Tensor kl = accumulator(hidden.value(), {hidden.value().dim(0)});
    const Tensor dlogits = kept_dlogits(hidden, w, t::num_taken(mask, hidden.value().dim(0)));
    t::token_kl(kl, hidden.value(), w.value(), hidden_ref, w_ref, mask, dlogits);
    return record(kl, {hidden, w},
                  [h = hidden.saved(), weight = w.value(), hidden_ref, w_ref, mask, dlogits](const Tensor& dy,
                                                                                             std::span<Sink> in) {
                      const Tensor dw = in[1].wanted() ? in[1].zeroed() : Tensor();
                      t::token_kl_backward(in[0].grad, dw, dy, h.get(), weight, hidden_ref, w_ref, mask,
                                           in[0].accumulate, dlogits);
                  });
}

Variable checkpoint(const std::function<Variable(const Variable&)>& f, const Variable& x) {
    if (!recording()) return f(x);
    Tensor y;
    {
        const NoGrad guard;
        y = f(x.detach()).value();
    }
    // f may read parameters that need gradients even where x does not, so x always enters as a leaf.
    const Variable anchor = x.requires_grad() ? x : Variable::leaf(x.value());
    return record(y, {anchor}, [f, input = x.value()](const Tensor& dy, std::span<Sink> in) {
        const Variable again = Variable::leaf(input);
        backward(f(again), dy);
        if (again.grad().defined())
            in[0].add(again.grad());
        else
            in[0].zeroed();
    });
}

}  // namespace uipe::autograd
