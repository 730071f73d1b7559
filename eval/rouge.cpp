#include "eval/rouge.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "eval/porter.h"

namespace uipe::eval {
namespace {

constexpr std::string_view dotted_i = "\u0130", kelvin = "\u212A";

/// ASCII lower case of the character at the front of `text`, 0 for a separator; `text` moves on.
/// Two characters beyond ASCII become ASCII letters when lower-cased: İ (i and a combining dot) and the Kelvin sign.
char take_lower(std::string_view& text) {
    for (const auto& [character, lower] : {std::pair{dotted_i, 'i'}, std::pair{kelvin, 'k'}}) {
        if (!text.starts_with(character)) continue;
        text.remove_prefix(character.size());
        return lower;
    }
    const char c = text.front();
    text.remove_prefix(1);
    if (c >= 'A' && c <= 'Z') return static_cast<char>(c - 'A' + 'a');
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '\0';
}

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    std::string word;
    const auto end_word = [&] {
        if (!word.empty()) words.push_back(word.size() > 3 ? porter_stem(word) : word);
        word.clear();
    };
    while (!text.empty()) {
        const bool dotted = text.starts_with(dotted_i);
        const char c = take_lower(text);
        if (c != '\0') word += c;
        if (c == '\0' || dotted) end_word();  // the combining dot that lower-casing İ leaves is a separator
    }
    end_word();
    return words;
}

std::size_t clipped_overlap(const std::vector<std::string>& a, const std::vector<std::string>& b) {
    std::unordered_map<std::string, std::size_t> left;
    for (const auto& word : a) ++left[word];
    std::size_t overlap = 0;
    for (const auto& word : b) {
        const auto at = left.find(word);
        if (at == left.end() || at->second == 0) continue;
        --at->second;
        ++overlap;
    }
    return overlap;
}

std::size_t longest_common_subsequence(const std::vector<std::string>& a, const std::vector<std::string>& b) {
    std::vector<std::size_t> row(b.size() + 1, 0);  // row[j]: the length for a[0..i] and b[0..j)
    for (const auto& word : a) {
        std::size_t diagonal = 0;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t above = row[j];
            row[j] = word == b[j - 1] ? diagonal + 1 : std::max(above, row[j - 1]);
            diagonal = above;
        }
    }
    return row.back();
}

}  // namespace

Rouge rouge(std::string_view reference, std::string_view candidate) {
    const auto wanted = words_of(reference), given = words_of(candidate);
    if (wanted.empty() || given.empty()) return {};
    const auto n = static_cast<double>(wanted.size());
    const auto common = static_cast<double>(longest_common_subsequence(wanted, given));
    const double recall = common / n, precision = common / static_cast<double>(given.size());
    const double f1 = common > 0 ? 2 * precision * recall / (precision + recall) : 0;
    return {static_cast<double>(clipped_overlap(wanted, given)) / n, recall, f1};
}

}  // namespace uipe::eval
