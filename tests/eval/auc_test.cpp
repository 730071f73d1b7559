#include "eval/auc.h"

#include <gtest/gtest.h>

#include "tensor/base/error.h"

namespace uipe::eval {
namespace {

TEST(AttackAuc, CountsPairsAndHalvesTies) {
    EXPECT_EQ(attack_auc({1, 2}, {3, 4}), 1);
    EXPECT_EQ(attack_auc({3, 4}, {1, 2}), 0);
    EXPECT_EQ(attack_auc({1, 1}, {1}), 0.5);
    EXPECT_EQ(attack_auc({2, 0, 1}, {1, 3}), (1.5 + 3) / 6);
    EXPECT_THROW(attack_auc({}, {1}), Error);
}

}  // namespace
}  // namespace uipe::eval
