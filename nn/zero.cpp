#include "nn/zero.h"

#include <algorithm>

#include "tensor/ops.h"

namespace uipe::nn {
namespace {

/// Parts begin at multiples of so many elements, so that kernels find them aligned as if each were alone.
constexpr std::int64_t alignment = 64;

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

}  // namespace

Zero::Zero(const std::vector<Parameters>& units, tensor::Comm& comm, int stage, tensor::DType dtype,
           tensor::Device device, tensor::MemoryClass memory)
    : units_(units.size()), comm_(comm), stage_(stage), memory_(memory) {
    const tensor::MemoryScope scope(memory);
    require_input(stage >= 0 && stage <= 3, "--zero must be 0, 1, 2 or 3, not ", stage);
    for (std::size_t u = 0; u < units.size(); ++u) {
        Unit& unit = units_[u];
        for (const Parameter& p : units[u]) {
            const Tensor& value = p.variable.value();
            if (!p.variable.requires_grad() && stage < 3) {  // stays where it is on every rank
                p.variable.set_value(value.to(dtype).to(device));
                continue;
            }
            Flat& flat = p.variable.requires_grad() ? unit.trained : unit.frozen;
            flat.parts.push_back({p, value.shape(), flat.size, value.numel()});
            flat.size = round_up(flat.size + value.numel(), alignment);
        }
        for (Flat* flat : {&unit.trained, &unit.frozen}) lay_out(*flat, dtype, device);
        make_slices(unit);
        for (std::size_t i = 0; i < unit.trained.parts.size(); ++i)
            unit.trained.parts[i].parameter.variable.set_grad_home([this, u, i] { return grad_home(u, i); });
    }
}

Zero::~Zero() {
    for (const Unit& unit : units_)
        for (const Part& part : unit.trained.parts) part.parameter.variable.set_grad_home({});
}

Tensor Zero::share(const Tensor& flat) const {
    const std::int64_t n = flat.numel() / comm_.size();
    return flat.rows(comm_.rank() * n, (comm_.rank() + 1) * n);
}

void Zero::lay_out(Flat& flat, tensor::DType dtype, tensor::Device device) {
    flat.size = round_up(flat.size, alignment * comm_.size());
    flat.values = Tensor::zeros({flat.size}, dtype, device);
    for (const Part& part : flat.parts) {
        const Tensor place = flat.values.rows(part.begin, part.begin + part.numel).view(part.shape);
        tensor::copy(place, part.parameter.variable.value().to(dtype).to(device));
        part.parameter.variable.set_value(stage_ == 3 ? place.without_storage() : place);
    }
    flat.own = share(flat.values);
    if (stage_ < 3) return;
    flat.own = flat.own.clone();
    flat.values = Tensor();
}

/// What rank q owns of a flat stretch, part by part.
std::vector<Zero::Owned> Zero::owned(const Flat& flat, int q) const {
    const std::int64_t n = flat.size / comm_.size();
    std::vector<Owned> out;
    for (const Part& part : flat.parts) {
        const std::int64_t begin = std::max(part.begin, q * n);
        const std::int64_t end = std::min(part.begin + part.numel, (q + 1) * n);
        if (begin >= end) continue;
        out.push_back({&part, begin, end, begin - q * n,
                       cat(part.parameter.name, "[", begin - part.begin, ":", end - part.begin, "]")});
    }
    return out;
}

void Zero::make_slices(Unit& unit) {
    if (stage_ == 0) {
        for (const Part& part : unit.trained.parts) slices_.push_back(part.parameter);
        return;
    }
    for (const Owned& o : owned(unit.trained, comm_.rank())) {
        const Tensor value = unit.trained.own.rows(o.at, o.at + o.size());
        // Weight decay knows matrices by their shape.
        unit.slices.push_back(
            {o.name, Variable::parameter(o.part->shape.size() > 1 ? value.view({1, o.size()}) : value)});
        slices_.push_back(unit.slices.back());
    }
}

// --- Weights ---------------------------------------------------------------------------------------------------------

/// Starts to gather what is not there.
void Zero::fetch(std::size_t unit) {
    const tensor::MemoryScope scope(memory_);
    for (Flat* flat : {&units_[unit].trained, &units_[unit].frozen}) {
        if (flat->values.defined() || flat->size == 0) continue;
        flat->values = Tensor::empty({flat->size}, flat->own.dtype(), flat->own.device());
        flat->gathering = comm_.all_gather(flat->values, flat->own);
    }
}

/// Waits for what is being gathered, and gives the parameters their values.
void Zero::arrive(std::size_t unit) {
    for (Flat* flat : {&units_[unit].trained, &units_[unit].frozen}) {
        if (!flat->gathering) continue;
        comm_.wait(*flat->gathering);
        flat->gathering.reset();
        for (const Part& part : flat->parts)
            part.parameter.variable.set_value(flat->values.rows(part.begin, part.begin + part.numel).view(part.shape));
    }
}

/// Lets go of the weights of other ranks.
void Zero::release(std::size_t unit) {
    if (stage_ < 3 || keep_) return;
    arrive(unit);
    for (Flat* flat : {&units_[unit].trained, &units_[unit].frozen}) {
        for (const Part& part : flat->parts)
            part.parameter.variable.set_value(part.parameter.variable.value().without_storage());
        flat->values = Tensor();
    }
}

void Zero::before_forward(std::size_t unit) {
    if (autograd::recording()) ++units_[unit].passes;
    fetch(unit);
    arrive(unit);
    if (unit + 1 < units_.size()) fetch(unit + 1);
}

void Zero::after_forward(std::size_t unit) { release(unit); }

void Zero::before_backward(std::size_t unit) {
    fetch(unit);
    arrive(unit);
    if (unit > 1) fetch(unit - 1);  // the embedding's gradient does not read the embedding
}

void Zero::after_backward(std::size_t unit) {
    // Another forward pass of this micro-batch may have its backward pass to come, and reads the weights once more.
    if (--units_[unit].passes > 0) return;
    reduce(unit);
    release(unit);
}

void Zero::gather_all(bool keep) {
    keep_ = keep;
    visit([](std::size_t) {});
}

void Zero::release_all() {
    keep_ = false;
    for (std::size_t u = 0; u < units_.size(); ++u) release(u);
}

void Zero::visit(const std::function<void(std::size_t)>& see) {
    for (std::size_t u = 0; u < units_.size(); ++u) {
        fetch(u);
        arrive(u);
        see(u);
        release(u);
    }
}

// --- Gradients -------------------------------------------------------------------------------------------------------

/// The memory of a parameter's gradient: its place in the unit's, which is taken when the first one asks.
Tensor Zero::grad_home(std::size_t u, std::size_t i) {
    Unit& unit = units_[u];
    const std::vector<Part>& parts = unit.trained.parts;
    if (!unit.grads.defined()) {
        unit.grads = Tensor::empty({unit.trained.size}, tensor::accumulator_of(unit.trained.own.dtype()),
                                   unit.trained.own.device());
        for (std::size_t k = 0; k < parts.size(); ++k) {  // what lies between the parts is summed with them
            const std::int64_t end = parts[k].begin + parts[k].numel;
            const std::int64_t next = k + 1 < parts.size() ? parts[k + 1].begin : unit.trained.size;
            if (end < next) tensor::fill(unit.grads.rows(end, next), 0.0);
        }
    }
    unit.written = true;
    return unit.grads.rows(parts[i].begin, parts[i].begin + parts[i].numel).view(parts[i].shape);
}

/// Starts to sum a unit's gradients over the ranks, when the stage has that done now.
void Zero::reduce(std::size_t u) {
    Unit& unit = units_[u];
    if (!unit.written || (stage_ < 2 && !last_)) return;
    unit.written = false;
    for (const Part& part : unit.trained.parts)
        if (!part.parameter.variable.grad().defined())
            tensor::fill(unit.grads.rows(part.begin, part.begin + part.numel), 0.0);
    finish_reduction();  // one at a time: each holds a unit's gradients
    const tensor::MemoryScope scope(tensor::MemoryClass::gradients);
    if (stage_ == 0) {
        reducing_ = Reduction{u, comm_.all_reduce(unit.grads), unit.grads};
        return;
    }
    const Tensor sum = stage_ == 1 ? share(unit.grads)
                                   : Tensor::empty(unit.trained.own.shape(), unit.grads.dtype(), unit.grads.device());
    reducing_ = Reduction{u, comm_.reduce_scatter(sum, unit.grads), sum};
    if (stage_ == 1) return;
    for (const Part& part : unit.trained.parts) part.parameter.variable.clear_grad();
    unit.grads = Tensor();
}

/// Waits for the reduction under way, and adds what it gave to this rank's share.
void Zero::finish_reduction() {
    if (!reducing_) return;
    comm_.wait(reducing_->ticket);
    Unit& unit = units_[reducing_->unit];
    if (stage_ > 0 && unit.own_grads.defined())
        tensor::axpby(unit.own_grads, 1.0, reducing_->sum, 1.0);
    else if (stage_ > 0)
        unit.own_grads = reducing_->sum;
    reducing_.reset();
}

void Zero::begin_micro_batch(bool last) {
    last_ = last;
    for (Unit& unit : units_) unit.passes = 0;  // of passes that had no backward pass
}

void Zero::end_micro_batch() {
    for (std::size_t u = units_.size(); u-- > 0;) {
        reduce(u);  // those that no mark on the way back stood for
        release(u);
    }
}

Tensor Zero::reduced_squares() {
    finish_reduction();
    const tensor::Device device = units_.front().trained.own.device();
    if (stage_ > 0) {
        for (const Unit& unit : units_) {
            if (!unit.own_grads.defined()) continue;
            const std::vector<Owned> own = owned(unit.trained, comm_.rank());
            for (std::size_t i = 0; i < own.size(); ++i) {
                const Variable& slice = unit.slices[i].variable;
                slice.set_grad(unit.own_grads.rows(own[i].at, own[i].at + own[i].size()).view(slice.value().shape()));
            }
        }
        return sum_over_ranks(grad_squares(slices_, device));
    }
    Tensor squares = Tensor::zeros({1}, tensor::DType::f64, device);
    for (int q = 0; q < comm_.size(); ++q) {  // what rank q adds up at the other stages, then the ranks in their order
        Tensor of_rank = Tensor::zeros({1}, tensor::DType::f64, device);
        for (const Unit& unit : units_)
            if (unit.grads.defined())
                for (const Owned& o : owned(unit.trained, q))
                    tensor::add_squares(of_rank, unit.grads.rows(o.begin, o.end));
        tensor::axpby(squares, 1.0, of_rank, 1.0);
    }
    return squares;
}

Tensor Zero::sum_over_ranks(const Tensor& x) {
    const std::int64_t n = x.numel();
    const Tensor all = Tensor::empty({comm_.size() * n}, x.dtype(), x.device());
    comm_.wait(comm_.all_gather(all, x));
    Tensor sum = all.rows(0, n).clone();
    for (int r = 1; r < comm_.size(); ++r) tensor::axpby(sum, 1.0, all.rows(r * n, (r + 1) * n), 1.0);
    return sum;
}

void Zero::updated() {
    for (Unit& unit : units_) {
        for (const Part& part : unit.trained.parts) part.parameter.variable.clear_grad();
        unit.grads = Tensor();
        unit.own_grads = Tensor();
        if (stage_ == 1 || stage_ == 2)
            unit.trained.gathering = comm_.all_gather(unit.trained.values, unit.trained.own);
    }
}

Zero::ByName Zero::whole(ByName slice) {
    return [this, slice = std::move(slice), unit = units_.size(), all = Tensor()](const std::string& name) mutable {
        if (stage_ == 0) return slice(name);
        for (std::size_t u = 0; u < units_.size(); ++u)
            for (const Part& part : units_[u].trained.parts) {
                if (part.parameter.name != name) continue;
                if (unit != u) {
                    const Flat& flat = units_[u].trained;
                    const tensor::DType dtype = tensor::accumulator_of(flat.own.dtype());
                    Tensor own = Tensor::zeros(flat.own.shape(), dtype, flat.own.device());
                    for (const Owned& o : owned(flat, comm_.rank()))
                        tensor::copy(own.rows(o.at, o.at + o.size()), slice(o.name).to(own.device()).view({o.size()}));
                    all = Tensor();
                    all = Tensor::empty({flat.size}, dtype, flat.own.device());
                    comm_.wait(comm_.all_gather(all, own));
                    unit = u;
                }
                return all.rows(part.begin, part.begin + part.numel).view(part.shape);
            }
        throw Error(cat("no trained parameter is called ", name));
    };
}

}  // namespace uipe::nn
