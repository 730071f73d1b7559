#include "unlearn/report/html.h"

#include <gtest/gtest.h>

#include <limits>

namespace uipe::unlearn {
namespace {

TEST(Html, EscapesMarkupAndControlCharacters) {
    EXPECT_EQ(escaped("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    EXPECT_EQ(escaped("Zürich\n\tα"), "Zürich\n\tα");
    EXPECT_EQ(escaped(std::string("a\0b\x1b[31m\x7f", 9)), "a\uFFFDb\uFFFD[31m\uFFFD");
}

TEST(Html, NumbersAndTheirAbsence) {
    EXPECT_EQ(decimal(0.5554), "0.555");
    EXPECT_EQ(decimal(2, 2), "2.00");
    EXPECT_EQ(decimal(std::nullopt), "–");
    EXPECT_EQ(decimal(std::numeric_limits<double>::quiet_NaN()), "–");
    EXPECT_EQ(decimal(std::numeric_limits<double>::infinity()), "–");
}

TEST(Html, ProbabilitiesSpanAllMagnitudes) {
    EXPECT_EQ(p_value(0.0592), "0.059");
    EXPECT_EQ(p_value(0.001), "0.001");
    EXPECT_EQ(p_value(2.5e-13), "2.5×10<sup>−13</sup>");
    EXPECT_EQ(p_value(1.06e-239), "1.1×10<sup>−239</sup>");
    EXPECT_EQ(p_value(std::nullopt), "–");
}

TEST(Html, CountsAndDurations) {
    EXPECT_EQ(count(64), "64");
    EXPECT_EQ(count(942464), "942,464");
    EXPECT_EQ(count(6738415616.0), "6,738,415,616");
    EXPECT_EQ(duration(46.6), "47 s");
    EXPECT_EQ(duration(192), "3 min 12 s");
    EXPECT_EQ(duration(7500), "2 h 5 min");
}

}  // namespace
}  // namespace uipe::unlearn
