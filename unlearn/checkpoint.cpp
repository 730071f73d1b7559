#include "unlearn/checkpoint.h"

#include <algorithm>
#include <charconv>

#include "tensor/base/checksum.h"
#include "tensor/ops.h"

namespace uipe::unlearn {
namespace {

using tensor::Tensor;

/// "NAME[begin:end]", or "NAME", which stands for all `numel` elements.
struct Name {
    std::string tensor;
    std::int64_t begin = 0, end = 0;
};

Name parse_name(const std::string& text, std::int64_t numel) {
    const std::size_t open = text.rfind('[');
    if (open == std::string::npos || text.back() != ']') return {text, 0, numel};
    Name out{text.substr(0, open), 0, 0};
    const char* last = text.data() + text.size() - 1;
    const auto [colon, first] = std::from_chars(text.data() + open + 1, last, out.begin);
    const bool two = first == std::errc() && colon != last && *colon == ':';
    const auto [stop, second] = std::from_chars(two ? colon + 1 : last, last, out.end);
    const bool ok = two && second == std::errc() && stop == last && 0 <= out.begin && out.begin < out.end &&
                    out.end - out.begin == numel;
    require_input(ok, "checkpoint: ", text, " does not name ", numel, " elements of a tensor");
    return out;
}

/// Every rank's word; all of them throw Fault when one has an error.
template <class Fault = Error>
std::vector<std::string> agree(tensor::Comm* comm, const std::string& word, const std::string& error) {
    std::vector<std::string> said{(error.empty() ? "+" : "-") + (error.empty() ? word : error)};
    if (comm != nullptr) said = comm->gather(said.front());
    for (std::string& text : said) {
        if (!text.starts_with('+')) throw Fault(text.substr(std::min<std::size_t>(1, text.size())));
        text.erase(0, 1);
    }
    return said;
}

/// What f gives; its error in `error`, so that other ranks can hear of it.
template <class F>
std::string attempt(std::string& error, const F& f) {
    try {
        return f();
    } catch (const std::exception& e) {
        error = e.what();
        return {};
    }
}

std::string hex(std::uint64_t value) {
    char text[20];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
    return text;
}

std::string checksum_of(const Json& state) {
    const std::string text = state.dump();
    return hex(checksum(text.data(), text.size()));
}

/// Name, size and checksum of a file.
Json described(const fs::path& file) {
    return {
        {"name", file.filename().string()}, {"bytes", fs::file_size(file)}, {"checksum", hex(checksum_of_file(file))}};
}

std::string write_part(const fs::path& folder, const llama::StateDict& tensors, int rank, int ranks) {
    char name[64];
    std::snprintf(name, sizeof name, "state-%05d-of-%05d.safetensors", rank + 1, ranks);
    llama::write_safetensors(folder / name, tensors);
    return described(folder / name).dump();
}

/// Throws unless a file is as state.json says; which it reads from end to end.
void verify(const fs::path& folder, const Json& file) {
    const bool ok = file.is_object() && file.contains("name") && file["name"].is_string() && file.contains("bytes") &&
                    file.contains("checksum");
    require_input(ok, (folder / "state.json").string(), ": an entry of \"files\" needs name, bytes and checksum");
    const fs::path path = folder / file["name"].get<std::string>();
    require_input(path.parent_path() == folder, (folder / "state.json").string(), ": ", file["name"].dump(),
                  " is not a file of this checkpoint");
    require_input(fs::exists(path), path.string(), ": is missing; take an older checkpoint, or start the run again");
    const Json found = described(path);
    require_input(found["bytes"] == file["bytes"], path.string(), ": has ", found["bytes"].dump(),
                  " bytes, was written with ", file["bytes"].dump(),
                  "; take an older checkpoint, or start the run again");
    require_input(
        found["checksum"] == file["checksum"], path.string(),
        ": is damaged, its checksum is not the one it was written with; take an older checkpoint, or start the "
        "run again");
}

}  // namespace

void write_checkpoint(const fs::path& folder, const llama::StateDict& tensors, const Json& state, tensor::Comm* comm) {
    const int ranks = comm != nullptr ? comm->size() : 1;
    const int rank = comm != nullptr ? comm->rank() : 0;
    if (rank > 0) {
        const fs::path temporary = agree(comm, "", "").front();
        std::string error;
        const std::string part = attempt(error, [&] { return write_part(temporary, tensors, rank, ranks); });
        agree(comm, part, error);
        agree(comm, "", "");
        return;
    }
    enum { alone, told, written } met = alone;  // what the others know; they wait for rank 0, whatever befalls it
    std::string error;
    attempt(error, [&] {
        write_folder(folder, [&](const fs::path& temporary) {
            agree(comm, temporary.string(), "");
            met = told;
            std::string fault;
            const std::string part = attempt(fault, [&] { return write_part(temporary, tensors, rank, ranks); });
            const std::vector<std::string> files = agree(comm, part, fault);
            met = written;
            Json whole = state;
            whole["files"] = Json::array();
            for (const std::string& file : files) whole["files"].push_back(parse_json(file, "checkpoint"));
            whole["checksum"] = checksum_of(whole);
            write_json(temporary / "state.json", whole);
        });
        return std::string();
    });
    if (met == told) throw Error(error);  // all of them know
    agree(comm, "", error);
}

Checkpoint::Checkpoint(const fs::path& folder, tensor::Comm* comm) : folder_(folder) {
    const auto ranks = static_cast<std::size_t>(comm != nullptr ? comm->size() : 1);
    const auto rank = static_cast<std::size_t>(comm != nullptr ? comm->rank() : 0);
    std::string error;
    attempt(error, [&] {
        state_ = read_json(folder / "state.json");
        const std::string where = (folder / "state.json").string();
        require_input(state_.is_object() && state_.contains("files") && state_["files"].is_array(), where,
                      ": needs the list \"files\"");
        const Json written = state_.contains("checksum") ? state_["checksum"] : Json();
        state_.erase("checksum");
        require_input(written == checksum_of(state_), where,
                      ": is damaged, its checksum is not the one it was written with; take an older checkpoint, or "
                      "start the run again");
        for (std::size_t i = rank; i < state_["files"].size(); i += ranks) verify(folder, state_["files"][i]);
        return std::string();
    });
    agree<InputError>(comm, "", error);
    for (const Json& file : state_["files"])
        for (auto& [text, elements] : llama::read_safetensors(folder / file["name"].get<std::string>())) {
            const Name name = parse_name(text, elements.numel());
            pieces_[name.tensor].push_back({name.begin, name.end, elements});
        }
    for (auto& [name, pieces] : pieces_)
        std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
}

void Checkpoint::require_holds(const llama::StateDict& wanted) const {
    for (const auto& [text, like] : wanted) {
        const Name name = parse_name(text, like.numel());
        const auto found = pieces_.find(name.tensor);
        require_input(found != pieces_.end(), folder_.string(), ": lacks ", name.tensor,
                      "; it was made by another model, or by an earlier version");
        std::int64_t to = name.begin;  // what is there from name.begin on
        for (const Piece& piece : found->second) {
            require_input(piece.elements.dtype() == like.dtype(), folder_.string(), ": has ", name.tensor, " in ",
                          tensor::name_of(piece.elements.dtype()), ", the model needs ", tensor::name_of(like.dtype()));
            if (piece.begin <= to) to = std::max(to, piece.end);
        }
        const bool whole = name.tensor == text;  // then its size is known, too
        require_input(to >= name.end && (!whole || to == name.end), folder_.string(), ": has ", to, " elements of ",
                      name.tensor, ", the model needs ", name.end, "; it was made by another model");
    }
}

Tensor Checkpoint::read(const std::string& text, const Tensor& like) const {
    const Name name = parse_name(text, like.numel());
    const std::vector<Piece>& pieces = pieces_.at(name.tensor);
    for (const Piece& piece : pieces)
        if (piece.begin <= name.begin && name.end <= piece.end)
            return piece.elements.view({piece.end - piece.begin})
                .rows(name.begin - piece.begin, name.end - piece.begin)
                .view(like.shape());
    const Tensor out = Tensor::empty({like.numel()}, like.dtype());
    for (const Piece& piece : pieces) {
        const std::int64_t begin = std::max(name.begin, piece.begin);
        const std::int64_t end = std::min(name.end, piece.end);
        if (begin >= end) continue;
        tensor::copy(out.rows(begin - name.begin, end - name.begin),
                     piece.elements.view({piece.end - piece.begin}).rows(begin - piece.begin, end - piece.begin));
    }
    return out.view(like.shape());
}

std::vector<std::pair<std::int64_t, fs::path>> checkpoints_in(const fs::path& folder) {
    std::vector<std::pair<std::int64_t, fs::path>> out;
    if (!fs::is_directory(folder)) return out;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        std::int64_t step = 0;
        const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
        if (error == std::errc() && end == name.data() + name.size()) out.emplace_back(step, entry.path());
    }
    std::sort(out.begin(), out.end());
    return out;
}

}  // namespace uipe::unlearn
