#include "unlearn/experiment/geometry.h"

#include <cmath>

#include "autograd/ops.h"
#include "tensor/ops.h"

namespace uipe::unlearn {
namespace {

/// Of "model.layers.3.mlp.up_proj.weight": "layer 3", its width kept so that names sort as layers do.
std::string layer_of(const std::string& name) {
    const std::string prefix = "model.layers.";
    if (name.starts_with("model.embed_tokens")) return "embedding";
    if (!name.starts_with(prefix)) return "head";
    const std::string number = name.substr(prefix.size(), name.find('.', prefix.size()) - prefix.size());
    return cat("layer ", number.size() < 2 ? " " : "", number);
}

double dot(const tensor::Tensor& a, const tensor::Tensor& b) {
    const auto x = a.to(tensor::DType::f64).to_vector<double>();
    const auto y = b.to(tensor::DType::f64).to_vector<double>();
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
}

/// Calls f(name, tensor of a, tensor of b).
template <class F>
void for_each_pair(const llama::StateDict& a, const llama::StateDict& b, const F& f) {
    require(a.size() == b.size(), "one side holds ", a.size(), " tensors, the other ", b.size());
    for (const auto& [name, x] : a) {
        const auto found = b.find(name);
        require(found != b.end() && found->second.shape() == x.shape(), name, " is not the same on both sides");
        f(name, x, found->second);
    }
}

double cosine(double ab, double aa, double bb) { return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0.0; }

}  // namespace

llama::StateDict gradient(const llama::Llama& model, std::span<const llama::Sequence> rows, std::size_t rows_a_pass) {
    require(!rows.empty() && rows_a_pass > 0, "a gradient needs rows");
    const nn::Parameters parameters = model.trainable();
    for (const nn::Parameter& p : parameters) p.variable.clear_grad();
    double targets = 0;
    for (const llama::Sequence& s : rows)
        targets += static_cast<double>(s.ids.size()) - static_cast<double>(s.first_target);
    for (std::size_t from = 0; from < rows.size(); from += rows_a_pass) {
        const llama::Batch batch = llama::pack(rows.subspan(from, std::min(rows_a_pass, rows.size() - from)));
        autograd::backward(autograd::scale(autograd::sum(model.logprob(batch)), -1.0 / targets));
    }
    llama::StateDict out;
    for (const nn::Parameter& p : parameters) {
        out[p.name] = p.variable.grad();
        p.variable.clear_grad();
    }
    return out;
}

double dot(const llama::StateDict& a, const llama::StateDict& b) {
    double sum = 0;
    for_each_pair(a, b,
                  [&](const std::string&, const tensor::Tensor& x, const tensor::Tensor& y) { sum += dot(x, y); });
    return sum;
}

double norm(const llama::StateDict& a) {
    double sum = 0;
    for (const auto& [name, x] : a) sum += tensor::sum_of_squares(x);
    return std::sqrt(sum);
}

double cosine(const llama::StateDict& a, const llama::StateDict& b) { return cosine(dot(a, b), dot(a, a), dot(b, b)); }

std::map<std::string, double> cosine_by_layer(const llama::StateDict& a, const llama::StateDict& b) {
    struct Sums {
        double ab = 0, aa = 0, bb = 0;
    };
    std::map<std::string, Sums> layers;
    for_each_pair(a, b, [&](const std::string& name, const tensor::Tensor& x, const tensor::Tensor& y) {
        Sums& sums = layers[layer_of(name)];
        sums.ab += dot(x, y);
        sums.aa += dot(x, x);
        sums.bb += dot(y, y);
    });
    std::map<std::string, double> out;
    for (const auto& [name, sums] : layers) out[name] = cosine(sums.ab, sums.aa, sums.bb);
    return out;
}

llama::StateDict update(const llama::StateDict& theta, const llama::StateDict& initial) {
    llama::StateDict out;
    for_each_pair(theta, initial, [&](const std::string& name, const tensor::Tensor& x, const tensor::Tensor& x0) {
        const tensor::Tensor u = tensor::Tensor::empty(x.shape(), tensor::accumulator_of(x.dtype()));
        tensor::axpby(u, 1.0, x, 0.0);
        tensor::axpby(u, -1.0, x0, 1.0);
        out[name] = u;
    });
    return out;
}

double projection(const llama::StateDict& update, const llama::StateDict& gradient) {
    const double length = norm(gradient);
    require(length > 0, "a gradient of nothing but zeros has no direction");
    return dot(update, gradient) / length;
}

}  // namespace uipe::unlearn
