#include "unlearn/cli/optimizer_options.h"

namespace uipe::unlearn {

void OptimizerArguments::apply(nn::AdamWOptions& options) const {
    require_input(moments == "f32" || moments == "bf16", "unknown --moments '", moments, "'; known: f32, bf16");
    require_input(offload == "none" || offload == "optimizer", "unknown --offload '", offload,
                  "'; known: none, optimizer");
    options.moments = moments == "bf16" ? tensor::DType::bf16 : tensor::DType::f32;
    options.offload = offload == "optimizer";
}

void add_optimizer_options(CLI::App& c, OptimizerArguments& a) {
    c.add_option("--moments", a.moments,
                 "AdamW's two moments: f32, 8 bytes a weight, or bf16, 4, rounded stochastically");
    c.add_option("--offload", a.offload,
                 "optimizer: masters and moments are in the host's memory, and it makes the update; no bit of a result "
                 "changes. With --device cuda");
}

}  // namespace uipe::unlearn
