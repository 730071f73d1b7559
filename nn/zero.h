// ZeRO (Rajbhandari et al. 2020): N ranks train one model on a share of each batch, and keep a share of what training
// keeps. Weights are laid out by units (nn/module.h), each one flat stretch of which rank r owns the r-th of N equal
// parts:
//
//   stage  weights  gradients  optimizer  | moved a step of one micro-batch, in weights of the model (Ψ)
//     0     whole     whole      whole    | 2Ψ: gradients summed on all ranks
//     1     whole     whole      1/N      | 2Ψ: gradients summed on their owner, weights gathered
//     2     whole     1/N        1/N      | 2Ψ
//     3     1/N       1/N        1/N      | 3Ψ: blocks gathered before their forward and their backward pass, too
//
// At stage 3 the embedding and the head are gathered once a micro-batch. Stages 2 and 3 reduce gradients in every
// micro-batch, the others in a step's last. Sums are taken in the order of ranks, so all stages give the same bits
// where a step is one micro-batch.
#pragma once

#include <map>
#include <optional>

#include "nn/optimizer.h"
#include "tensor/comm/comm.h"

namespace uipe::nn {

class Zero final : public UnitObserver {
public:
    /// Lays out the weights of `units`, from host or device and any type, as `dtype` on `device`, and gives every
    /// parameter its new place, counted as `memory`. The same on all ranks. Error when `stage` is not 0 to 3.
    Zero(const std::vector<Parameters>& units, tensor::Comm& comm, int stage, tensor::DType dtype,
         tensor::Device device, tensor::MemoryClass memory = tensor::MemoryClass::weights);
    ~Zero() override;
    Zero(const Zero&) = delete;
    Zero& operator=(const Zero&) = delete;

    /// What this rank's optimizer updates: the parameters themselves at stage 0, else parts of them, named
    /// "NAME[begin:end]" by their elements, shaped [1,n] or, of a vector, [n].
    const Parameters& slices() const { return slices_; }

    /// Around the passes of each micro-batch; `last` of the step.
    void begin_micro_batch(bool last);
    void end_micro_batch();
    /// After the last one: the gradients of slices() are there, summed over the ranks. Returns the sum of squares of
    /// the whole gradient, f64[1].
    Tensor reduced_squares();
    /// The sum over ranks of x[n], in their order; for a few numbers.
    Tensor sum_over_ranks(const Tensor& x);
    /// After the optimizer has updated the slices.
    void updated();

    /// Between them every weight is there whole, for reading outside of a training pass, on the ranks that keep them;
    /// the others only give. All ranks.
    void gather_all(bool keep = true);
    void release_all();
    /// Calls see(u) for each unit in turn, whose weights are there whole meanwhile. All ranks.
    void visit(const std::function<void(std::size_t unit)>& see);

    using ByName = std::function<Tensor(const std::string& name)>;
    /// Gives, by a parameter's name, the whole tensor of which what `slice` gives, by the names of slices(), are this
    /// rank's parts, in the accumulator's type: masters. All ranks ask for the same names in the same order; names of
    /// one unit in a row cost least.
    ByName whole(ByName slice);

    void before_forward(std::size_t unit) override;
    void after_forward(std::size_t unit) override;
    void before_backward(std::size_t unit) override;
    void after_backward(std::size_t unit) override;

private:
    struct Part {
        Parameter parameter;
        tensor::Shape shape;
        std::int64_t begin, numel;  // in the flat stretch
    };
    /// Weights of one unit that are trained, or that are not.
    struct Flat {
        std::vector<Part> parts;
        std::int64_t size = 0;  // a multiple of the number of ranks
        Tensor values;          // [size]; undefined while only `own` is there
        Tensor own;             // [size/N]: this rank's rows of values, or all that there is
        std::optional<tensor::Ticket> gathering;
    };
    struct Unit {
        Flat trained, frozen;
        Tensor grads;          // [size] of `trained`, while gradients are written
        Tensor own_grads;      // [size/N], summed over ranks
        Parameters slices;     // of stages 1 to 3
        bool written = false;  // and not yet reduced
        int passes = 0;        // forward passes whose backward pass is to come
    };
    /// What a rank owns of a part.
    struct Owned {
        const Part* part;
        std::int64_t begin, end;  // in the flat stretch
        std::int64_t at;          // in the rank's share of it
        std::string name;         // "NAME[begin:end]", in the part
        std::int64_t size() const { return end - begin; }
    };
    /// A reduction under way.
    struct Reduction {
        std::size_t unit;
        tensor::Ticket ticket;
        Tensor sum;  // where it arrives
    };

    /// This rank's rows of a flat stretch.
    Tensor share(const Tensor& flat) const;
    std::vector<Owned> owned(const Flat& flat, int q) const;
    void lay_out(Flat& flat, tensor::DType dtype, tensor::Device device);
    void make_slices(Unit& unit);
    void fetch(std::size_t unit);
    void arrive(std::size_t unit);
    void release(std::size_t unit);
    Tensor grad_home(std::size_t unit, std::size_t part);
    void reduce(std::size_t unit);
    void finish_reduction();

    std::vector<Unit> units_;
    tensor::Comm& comm_;
    int stage_;
    tensor::MemoryClass memory_;
    bool last_ = true;
    bool keep_ = false;  // between gather_all() and release_all()
    Parameters slices_;
    std::optional<Reduction> reducing_;
};

}  // namespace uipe::nn
