// A world and a small model that knows it, for experiments without a model of one's own.
#pragma once

#include <cstdint>

#include "llama/config.h"
#include "unlearn/experiment/cache.h"
#include "unlearn/number_text.h"

namespace uipe::unlearn {

/// A config for a world's tokenizer: untied, four heads, a feed-forward layer of 8/3 of the width.
llama::Config small_config(std::int64_t width, std::int64_t layers, std::int64_t vocab_size);

/// The prompt of a QA row where an experiment is told of no other.
inline const std::string default_form = "llama2-chat";
/// --template FORM, for commands that have it; nothing for the default: their words are the keys of what is kept.
Words form_words(const std::string& form);

struct SmallWorldOptions {
    int width = 96, layers = 4;
    int epochs = 5;  // of pretraining
    /// People on whom the rules of related knowledge show, which the model is then pretrained on as well; there are
    /// fewer other people and wordings to make room, and weights decay, without which it learns each fact for itself.
    int related_people = 0;
    std::uint64_t seed = 42;
    std::string form = default_form;
};

struct SmallWorld {
    fs::path world, model;
    Words pretraining;  // the files that the model was pretrained on, for replay
};

/// Makes both, or takes them from the cache.
SmallWorld small_world(const SmallWorldOptions& options, const Cache& cache);

}  // namespace uipe::unlearn
