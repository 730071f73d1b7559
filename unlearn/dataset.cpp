#include "unlearn/dataset.h"

#include <algorithm>

#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "tensor/random.h"
#include "unlearn/refusals.h"

namespace uipe::unlearn {
namespace {

// Streams of random numbers, apart from each other for every epoch.
constexpr std::uint64_t order_stream = std::uint64_t{1} << 40;
constexpr std::uint64_t replay_stream = std::uint64_t{2} << 40;
constexpr std::uint64_t pair_stream = std::uint64_t{3} << 40;
constexpr std::uint64_t refusal_stream = std::uint64_t{5} << 40;

std::string text_of(const Json& row, const char* key, const std::string& place) {
    require_input(row.contains(key), place, ": has no \"", key, "\"; rows are {\"question\",\"answer\"} or {\"text\"}");
    require_input(row[key].is_string() && !row[key].get_ref<const std::string&>().empty(), place, ": \"", key,
                  "\" must be a text that is not empty");
    return row[key].get<std::string>();
}

/// Those that are not blank.
std::vector<std::string> lines_of(const fs::path& file) {
    std::vector<std::string> out;
    std::istringstream lines(read_file(file));
    for (std::string line; std::getline(lines, line);)
        if (line.find_first_not_of(" \t\r") != std::string::npos) out.push_back(line);
    return out;
}

}  // namespace

std::vector<llama::Sequence> read_sequences(const fs::path& file, const llama::Tokenizer& tokenizer,
                                            const llama::PromptTemplate& form, std::int64_t max_length) {
    std::vector<llama::Sequence> out;
    if (file.extension() == ".txt") {
        for (const std::string& line : lines_of(file)) out.push_back(llama::encode_text(tokenizer, line, max_length));
    } else {
        for_each_row(file, [&](const Json& row, const std::string& place) {
            require_input(row.is_object(), place, ": is no object; rows are {\"question\",\"answer\"} or {\"text\"}");
            const auto place_it = [&](const auto& encode) {
                try {
                    return encode();
                } catch (const InputError& e) {
                    throw InputError(cat(place, ": ", e.what()));
                }
            };
            if (row.contains("text")) {
                out.push_back(llama::encode_text(tokenizer, text_of(row, "text", place), max_length));
            } else {
                const std::string question = text_of(row, "question", place);
                const std::string answer = text_of(row, "answer", place);
                out.push_back(
                    place_it([&] { return llama::encode_qa(tokenizer, form, question, answer, max_length); }));
            }
        });
    }
    require_input(!out.empty(), file.string(), ": holds no rows");
    return out;
}

std::vector<llama::Sequence> read_refusals(const fs::path& file, const llama::Tokenizer& tokenizer,
                                           const llama::PromptTemplate& form, std::int64_t max_length) {
    std::vector<llama::Sequence> out;
    for (const std::string& line : file.empty() ? built_in_refusals() : lines_of(file))
        out.push_back(llama::encode_qa(tokenizer, form, "?", line, max_length));
    require_input(!out.empty(), file.string(), ": holds no lines");
    return out;
}

std::vector<std::int64_t> epoch_order(std::int64_t rows, std::int64_t replay_rows, std::int64_t replayed, bool shuffle,
                                      std::uint64_t seed, std::int64_t epoch) {
    const auto e = static_cast<std::uint64_t>(epoch);
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < rows; ++i) order.push_back(i);
    if (replayed > 0 && replay_rows > 0) {
        const auto draws = tensor::Random(seed, replay_stream + e).permutation(replay_rows);
        for (std::int64_t i = 0; i < std::min(replayed, replay_rows); ++i)
            order.push_back(rows + draws[static_cast<std::size_t>(i)]);
    }
    if (!shuffle) return order;
    const auto places = tensor::Random(seed, order_stream + e).permutation(static_cast<std::int64_t>(order.size()));
    std::vector<std::int64_t> shuffled;
    for (const std::int64_t place : places) shuffled.push_back(order[static_cast<std::size_t>(place)]);
    return shuffled;
}

namespace {

/// A draw of n, of one of the streams above, for a row in an epoch.
std::int64_t paired(std::int64_t n, std::uint64_t first_stream, std::uint64_t seed, std::int64_t epoch,
                    std::int64_t row) {
    const std::uint64_t stream =
        first_stream + (static_cast<std::uint64_t>(epoch) << 44) + static_cast<std::uint64_t>(row);
    return static_cast<std::int64_t>(tensor::Random(seed, stream).below(static_cast<std::uint64_t>(n)));
}

}  // namespace

std::int64_t paired_row(std::int64_t retain_rows, std::uint64_t seed, std::int64_t epoch, std::int64_t row) {
    return paired(retain_rows, pair_stream, seed, epoch, row);
}

std::int64_t paired_refusal(std::int64_t refusals, std::uint64_t seed, std::int64_t epoch, std::int64_t row) {
    return paired(refusals, refusal_stream, seed, epoch, row);
}

}  // namespace uipe::unlearn
