// What a model is taught to say instead of an answer, by DPO and IDK, where no file of refusals is given.
#pragma once

#include <string>
#include <vector>

namespace uipe::unlearn {

/// A hundred short sentences.
const std::vector<std::string>& built_in_refusals();

}  // namespace uipe::unlearn
