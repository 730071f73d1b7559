// The message of the InputError that a call throws.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tensor/base/error.h"

namespace uipe::eval {

template <class Call>
std::string input_error(const Call& call) {
    try {
        call();
    } catch (const InputError& error) {
        return error.what();
    }
    ADD_FAILURE() << "no InputError";
    return {};
}

inline testing::AssertionResult contains(const std::string& text, const std::string& part) {
    if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "`" << text << "` does not hold `" << part << "`";
}

}  // namespace uipe::eval
