// A small TOFU evaluation: the real forget01 rows and as many retain rows, judged by the small model.
#pragma once

#include <optional>

#include "bench/models.h"
#include "eval/evaluate.h"

namespace uipe::bench {

struct TofuTask {
    llama::Tokenizer tokenizer;
    eval::TofuSets sets;
    eval::EvaluateOptions options;

    eval::EvalLog run(const llama::Llama& model) const { return eval::evaluate(model, tokenizer, sets, options); }
};

/// 40 rows of forget01 and the first 40 of retain, seven answers scored and 200 tokens generated for each; the
/// tokenizer is Llama-2's. From the folder that UIPE_DATA names; empty where it is not set.
std::optional<TofuTask> tofu_task();

}  // namespace uipe::bench
