#include "eval/porter.h"

#include <array>
#include <initializer_list>

namespace uipe::eval {
namespace {

bool is_consonant(std::string_view word, std::size_t i) {
    // A y is a consonant at the start and after a vowel, so a run of y alternates: walk back to where it starts.
    bool flip = false;
    for (; word[i] == 'y'; --i, flip = !flip)
        if (i == 0) return !flip;
    const bool consonant = std::string_view("aeiou").find(word[i]) == std::string_view::npos;
    return consonant != flip;
}

/// Porter's m: how often a vowel is followed by a consonant.
int measure(std::string_view stem) {
    int m = 0;
    for (std::size_t i = 1; i < stem.size(); ++i) m += !is_consonant(stem, i - 1) && is_consonant(stem, i);
    return m;
}

bool has_vowel(std::string_view stem) {
    for (std::size_t i = 0; i < stem.size(); ++i)
        if (!is_consonant(stem, i)) return true;
    return false;
}

bool ends_double_consonant(std::string_view word) {
    const auto n = word.size();
    return n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1);
}

/// Porter's *o; NLTK adds words of two letters, vowel then consonant.
bool ends_cvc(std::string_view word) {
    const auto n = word.size();
    if (n == 2) return !is_consonant(word, 0) && is_consonant(word, 1);
    return n >= 3 && is_consonant(word, n - 3) && !is_consonant(word, n - 2) && is_consonant(word, n - 1) &&
           std::string_view("wxy").find(word[n - 1]) == std::string_view::npos;
}

struct Rule {
    std::string_view suffix, replacement;
};

std::string_view without(std::string_view word, std::string_view suffix) {
    return word.substr(0, word.size() - suffix.size());
}

/// Applies the first rule whose suffix fits. When the stem's measure is not above `m` the word stays: later rules are
/// not tried.
std::string apply(std::string word, std::initializer_list<Rule> rules, int m) {
    for (const Rule& rule : rules) {
        if (!word.ends_with(rule.suffix)) continue;
        const auto stem = without(word, rule.suffix);
        return measure(stem) > m ? std::string(stem).append(rule.replacement) : word;
    }
    return word;
}

constexpr int any_measure = -1;

std::string step1a(std::string word) {
    if (word.ends_with("ies") && word.size() == 4) return word.substr(0, 3);
    return apply(std::move(word), {{"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}}, any_measure);
}

/// Repairs the stem that is left when -ed or -ing goes.
std::string mend(std::string stem) {
    for (const std::string_view suffix : {"at", "bl", "iz"})
        if (stem.ends_with(suffix)) return stem + "e";
    if (ends_double_consonant(stem)) {
        if (std::string_view("lsz").find(stem.back()) == std::string_view::npos) stem.pop_back();
        return stem;
    }
    return measure(stem) == 1 && ends_cvc(stem) ? stem + "e" : stem;
}

std::string step1b(std::string word) {
    if (word.ends_with("ied")) return word.substr(0, word.size() - (word.size() == 4 ? 1 : 2));
    if (word.ends_with("eed")) return apply(std::move(word), {{"eed", "ee"}}, 0);
    for (const std::string_view suffix : {"ed", "ing"})
        if (word.ends_with(suffix) && has_vowel(without(word, suffix))) return mend(std::string(without(word, suffix)));
    return word;
}

std::string step1c(std::string word) {
    const auto n = word.size();
    if (n > 2 && word.back() == 'y' && is_consonant(word, n - 2)) word.back() = 'i';
    return word;
}

std::string step2(std::string word) {
    if (word.ends_with("alli") && measure(without(word, "alli")) > 0) return step2(std::string(without(word, "li")));
    // In -logi the l counts for the stem's measure, so that "geology" is treated as "archaeology" is.
    if (word.ends_with("logi")) return measure(without(word, "ogi")) > 0 ? word.substr(0, word.size() - 1) : word;
    return apply(std::move(word),
                 {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"}, {"anci", "ance"}, {"izer", "ize"},
                  {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"}, {"eli", "e"},     {"ousli", "ous"},
                  {"ization", "ize"}, {"ation", "ate"},   {"ator", "ate"},  {"alism", "al"},  {"iveness", "ive"},
                  {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},  {"iviti", "ive"}, {"biliti", "ble"},
                  {"fulli", "ful"}},
                 0);
}

std::string step3(std::string word) {
    return apply(
        std::move(word),
        {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""}, {"ness", ""}},
        0);
}

std::string step4(std::string word) {
    if (word.ends_with("ion")) {
        const auto stem = without(word, "ion");
        const bool fits = measure(stem) > 1 && (stem.back() == 's' || stem.back() == 't');
        return fits ? std::string(stem) : word;
    }
    return apply(std::move(word),
                 {{"al", ""},
                  {"ance", ""},
                  {"ence", ""},
                  {"er", ""},
                  {"ic", ""},
                  {"able", ""},
                  {"ible", ""},
                  {"ant", ""},
                  {"ement", ""},
                  {"ment", ""},
                  {"ent", ""},
                  {"ou", ""},
                  {"ism", ""},
                  {"ate", ""},
                  {"iti", ""},
                  {"ous", ""},
                  {"ive", ""},
                  {"ize", ""}},
                 1);
}

std::string step5(std::string word) {
    if (word.ends_with('e')) {
        const auto stem = without(word, "e");
        const int m = measure(stem);
        if (m > 1 || (m == 1 && !ends_cvc(stem))) word.pop_back();
    }
    if (word.ends_with("ll") && measure(without(word, "l")) > 1) word.pop_back();
    return word;
}

}  // namespace

std::string porter_stem(std::string_view word) {
    constexpr std::array<Rule, 16> irregular{{{"sky", "sky"},
                                              {"skies", "sky"},
                                              {"dying", "die"},
                                              {"lying", "lie"},
                                              {"tying", "tie"},
                                              {"news", "news"},
                                              {"innings", "inning"},
                                              {"inning", "inning"},
                                              {"outings", "outing"},
                                              {"outing", "outing"},
                                              {"cannings", "canning"},
                                              {"canning", "canning"},
                                              {"howe", "howe"},
                                              {"proceed", "proceed"},
                                              {"exceed", "exceed"},
                                              {"succeed", "succeed"}}};
    for (const Rule& rule : irregular)
        if (word == rule.suffix) return std::string(rule.replacement);
    if (word.size() <= 2) return std::string(word);
    return step5(step4(step3(step2(step1c(step1b(step1a(std::string(word))))))));
}

}  // namespace uipe::eval
