// How long a step will take on a chip, from the work that its plan counted: each family of ops at a stated share of
// what the chip can do at most, then what moving gradients and weights between ranks adds. An estimate; every
// assumption is printed with it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "tensor/profile.h"

namespace uipe::unlearn {

/// A chip by its data sheet.
struct Chip {
    const char* name;
    double memory;     // bytes
    double bf16, f32;  // FLOP/s of dense products, sums in f32; f32 without TF32
    double bandwidth;  // of its memory, bytes/s
    double link;       // to another chip in its machine, bytes/s in one direction
    double network;  // of a machine of eight to the others, bytes/s in one direction: an assumption, not a data sheet's

    tensor::Roofs roofs(tensor::DType dtype) const { return {dtype == tensor::DType::bf16 ? bf16 : f32, bandwidth}; }
};
const std::vector<Chip>& chips();
/// InputError lists the known ones.
const Chip& chip_named(const std::string& name);

/// The share of its roof that a family reaches.
using Shares = std::array<double, tensor::num_families>;
Shares usual_shares();
/// "matmul=0.7,attention=0.5": those given, and the usual ones of the others; InputError.
Shares parse_shares(const std::string& text);

/// How ranks are joined.
struct Wires {
    double link = 0;     // bytes/s that a rank sends to another in its machine
    double network = 0;  // bytes/s that a machine sends to another
    int ranks_a_machine = 8;
    double hop = 3e-6;  // seconds from a rank to the next, however small the message
};

struct PredictionOptions {
    Shares shares = usual_shares();
    double launch = 5e-6;  // seconds of the host's work an op: what a step takes at least
    int ranks = 1;
    double traffic = 0;      // bytes given to the ranks a step: tensor/comm's count
    std::int64_t calls = 0;  // in which they were given
    Wires wires;
    double overlap = 0.8;  // of the backward pass, under which communication can hide
};

struct Prediction {
    std::array<double, tensor::num_families> seconds{};  // of the families
    double compute = 0;                                  // their sum, or the host's if that is longer
    double communication = 0;                            // were nothing hidden
    double step = 0;                                     // with what is not hidden
};

/// `work` must have been counted with the roofs of one rank. A ring moves (N-1)/N of the traffic over each link, in N-1
/// hops a call; one that leaves a machine is as slow as the machine's network.
Prediction predict(const tensor::Profile& work, const PredictionOptions& options);

}  // namespace uipe::unlearn
