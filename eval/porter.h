// The Porter stemmer as NLTK runs it by default, which is what published ROUGE scores use.
#pragma once

#include <string>
#include <string_view>

namespace uipe::eval {

/// The stem of a word of lower-case ASCII letters and digits.
/// Source: M. F. Porter, "An algorithm for suffix stripping" (1980), with NLTK's extensions (its NLTK_EXTENSIONS
/// mode: a table of irregular words, no stemming of words of one or two letters, and amended steps 1 and 2).
/// Porter's own later revisions and Snowball's "english" give other stems.
std::string porter_stem(std::string_view word);

}  // namespace uipe::eval
