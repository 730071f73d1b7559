// A synthetic world in TOFU's file layout, small enough to pretrain, fine-tune and unlearn on a laptop in minutes:
// fictional authors, other people and countries a model is pretrained on, and facts that imply each other.
#pragma once

#include <cstdint>

#include "tensor/base/file.h"

namespace uipe::unlearn {

/// What to write. With the defaults the forget sets are exactly 1, 5 and 10 per cent of the authors; with a number of
/// authors that 100 does not divide they are rounded to whole authors, at least one each.
struct WorldOptions {
    int authors = 100;             ///< fictional authors of full.json; 10 or more
    int questions_per_author = 8;  ///< questions on each, on different attributes; 1 to 16
    int pretraining_people = 60;   ///< people of the pretraining text ("real authors"), with all 16 attributes
    int combinations = 8;          ///< wordings of each fact in the pretraining data; 1 to 12
    int related_people = 300;      ///< people of pretrain_related.jsonl on whom related facts are shown
    int related_facts = 4;         ///< relations shown on each of them; 1 to 10
    int vocab_size = 1500;         ///< pieces of tokenizer.model
    std::uint64_t seed = 42;
};

/// Writes the folder `out` (replacing it), whole or not at all; the same options give the same bytes.
/// JSON lines, in TOFU's fields: full, forget01/05/10, retain99/95/90, forget01/05/10_perturbed, retain_perturbed,
/// holdout01/05/10, real_authors, real_authors_perturbed, world_facts, world_facts_perturbed (all `.json`); and, which
/// TOFU has not, holdout01/05/10_perturbed: what truth ratios are on people that no model has seen.
/// Pretraining data: pretrain.jsonl and pretrain_related.jsonl, rows {"question","answer"} or {"text"}.
/// Related knowledge: related_k1.json and related_k2.json, row i of k2 implying row i of k1, and, of people of the
/// pretraining data, related_retain_perturbed.json; all in the perturbed fields.
/// Beside them tokenizer.model, and world.json with the options and the number of rows of each file.
/// InputError for options out of range. The forget sets are the LAST authors of full.json.
void write_world(const WorldOptions& options, const fs::path& out);

}  // namespace uipe::unlearn
