#include "llama/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "tensor/base/error.h"
#include "tensor/base/json.h"

namespace uipe::llama {
namespace {

using tensor::DType;
using tensor::Tensor;

static_assert(std::endian::native == std::endian::little, "the format is little-endian and read in place");

constexpr std::uint64_t max_header = 100'000'000;  // the limit of the reference implementation

/// One tensor of a header, checked: its bytes are [begin, end) of the data section.
struct Entry {
    std::string name;
    DType dtype = DType::f32;  // of the tensor in memory
    bool half = false;         // stored as F16
    tensor::Shape shape;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

/// The value of a binary16 number, as f32; exact.
float from_half(std::uint16_t h) {
    const int exponent = (h >> 10) & 31;
    const int fraction = h & 1023;
    float value = std::ldexp(static_cast<float>(fraction | (exponent > 0 ? 1024 : 0)), std::max(exponent, 1) - 25);
    if (exponent == 31)
        value = fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    return (h & 0x8000) != 0 ? -value : value;
}

// Keys are sorted here: Json looks at every key before it at each insertion, too slow for a hostile header.
using Header = nlohmann::json;

/// A name from the header for a message: quoted, on one line, of readable length.
std::string quoted(const std::string& name) {
    const std::string text = Header(name).dump(-1, ' ', true);
    return text.size() > 120 ? text.substr(0, 120) + "…\"" : text;
}

/// Parses the header. The parser keeps one of two equal keys and says nothing, so they are watched for here.
Header parse_header(std::string_view text, const std::string& where) {
    std::set<std::string> tensors;
    std::set<std::string> fields;
    const auto watch = [&](int depth, Header::parse_event_t event, Header& key) {
        require_input(depth <= 3, where, ": the header is nested too deep; this is no safetensors file");
        if (event != Header::parse_event_t::key) return true;
        if (depth == 1) fields.clear();
        const bool fresh = (depth == 1 ? tensors : fields).insert(key.get<std::string>()).second;
        require_input(fresh, where, ": the header names ", quoted(key.get<std::string>()),
                      " twice; the file is broken, fetch it again");
        return true;
    };
    try {
        Header header = Header::parse(text, watch);
        require_input(header.is_object(), where, ": the header is no JSON object; fetch the file again");
        return header;
    } catch (const Header::parse_error& e) {
        throw InputError(cat(where, ": JSON fault at byte ", 7 + e.byte, ", in the header; fetch the file again"));
    } catch (const Header::exception&) {
        throw InputError(cat(where, ": the header holds a number out of range; fetch the file again"));
    }
}

std::string_view header_text(const MappedFile& file, const std::string& where) {
    require_input(file.size() >= 8, where, ": ", file.size(),
                  " bytes are too few for a safetensors file; fetch it again");
    std::uint64_t length = 0;
    std::memcpy(&length, file.data(), 8);
    require_input(length <= max_header && length <= file.size() - 8, where, ": byte 0 announces a header of ", length,
                  " bytes in a file of ", file.size(), "; it is cut short or no safetensors file, fetch it again");
    return {reinterpret_cast<const char*>(file.data()) + 8, length};
}

void read_dtype(Entry& entry, const Header& json, const std::string& where) {
    const auto it = json.find("dtype");
    require_input(it != json.end() && it->is_string(), where, ": no dtype; the header is broken, fetch it again");
    const auto& name = it->get_ref<const std::string&>();
    entry.half = name == "F16";
    if (name == "F64") {
        entry.dtype = DType::f64;
    } else if (name == "BF16") {
        entry.dtype = DType::bf16;
    } else if (name == "I32") {
        entry.dtype = DType::i32;
    } else {
        require_input(name == "F32" || entry.half, where, ": dtype ", quoted(name),
                      " is not supported; convert it to F64, F32, BF16, F16 or I32");
    }
}

/// A list of unsigned numbers that fit in 63 bits.
std::vector<std::int64_t> read_numbers(const Header& json, const char* key, const std::string& where) {
    const auto it = json.find(key);
    require_input(it != json.end() && it->is_array(), where, ": no ", key, "; the header is broken, fetch it again");
    std::vector<std::int64_t> numbers;
    for (const Header& n : *it) {
        require_input(n.is_number_unsigned() && n.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max(),
                      where, ": ", key, " holds a ", n.type_name(),
                      " that is no count; the header is broken, fetch the file again");
        numbers.push_back(n.get<std::int64_t>());
    }
    return numbers;
}

/// Bytes of a shape, or InputError when no 63 bits can count them.
std::uint64_t bytes_of(const tensor::Shape& shape, std::int64_t element, const std::string& where) {
    std::int64_t bytes = element;
    bool fits = true;
    for (const std::int64_t d : shape) fits = fits && !__builtin_mul_overflow(bytes, d, &bytes);
    require_input(fits, where, ": shape ", tensor::to_string(shape), " overflows; the header is broken");
    return static_cast<std::uint64_t>(bytes);
}

Entry read_entry(const std::string& name, const Header& json, std::uint64_t data_size, const std::string& where) {
    require_input(json.is_object(), where, ": is no object; the header is broken, fetch the file again");
    Entry entry;
    entry.name = name;
    read_dtype(entry, json, where);
    entry.shape = read_numbers(json, "shape", where);
    const std::vector<std::int64_t> offsets = read_numbers(json, "data_offsets", where);
    require_input(offsets.size() == 2 && offsets[0] <= offsets[1], where,
                  ": data_offsets must be [begin, end]; the header is broken, fetch the file again");
    entry.begin = static_cast<std::uint64_t>(offsets[0]);
    entry.end = static_cast<std::uint64_t>(offsets[1]);
    require_input(entry.end <= data_size, where, ": data ends at byte ", entry.end, " of ", data_size,
                  "; the file is cut short, fetch it again");
    const std::int64_t element = entry.half ? 2 : static_cast<std::int64_t>(tensor::size_of(entry.dtype));
    const std::uint64_t bytes = bytes_of(entry.shape, element, where);
    require_input(entry.end - entry.begin == bytes, where, ": shape ", tensor::to_string(entry.shape), " needs ", bytes,
                  " bytes, data_offsets give ", entry.end - entry.begin,
                  "; the header is broken, fetch the file again");
    return entry;
}

/// The tensors must fill the data section without holes or overlaps, as the format demands.
void check_layout(std::vector<Entry>& entries, std::uint64_t data_size, const std::string& where) {
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
    std::uint64_t at = 0;
    for (const Entry& entry : entries) {
        require_input(entry.begin == at, where, ": tensor ", quoted(entry.name), ": data begins at byte ", entry.begin,
                      entry.begin < at ? ", inside the tensor before" : ", after a hole", " (expected ", at,
                      "); the header is broken, fetch the file again");
        at = entry.end;
    }
    require_input(at == data_size, where, ": tensors end at byte ", at, " of ", data_size,
                  " of data; the file does not belong to its header, fetch it again");
}

Tensor load(const Entry& entry, const std::byte* data, const std::shared_ptr<const MappedFile>& file) {
    const std::byte* bytes = data + entry.begin;
    if (entry.half) {
        Tensor t = Tensor::empty(entry.shape, DType::f32);
        for (std::int64_t i = 0; i < t.numel(); ++i) {
            std::uint16_t h = 0;
            std::memcpy(&h, bytes + 2 * i, 2);
            t.data<float>()[i] = from_half(h);
        }
        return t;
    }
    if (reinterpret_cast<std::uintptr_t>(bytes) % tensor::size_of(entry.dtype) == 0)
        return Tensor::borrow(bytes, entry.shape, entry.dtype, file);
    Tensor t = Tensor::empty(entry.shape, entry.dtype);
    if (t.nbytes() > 0) std::memcpy(t.raw(), bytes, t.nbytes());
    return t;
}

/// A file written in parts under a temporary name; commit() gives it its own. Without commit() nothing stays.
class PartWriter {
public:
    explicit PartWriter(fs::path path) : path_(std::move(path)), temporary_(path_) {
        temporary_ += cat(".tmp-", ::getpid());
        fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        check(fd_ >= 0);
    }
    ~PartWriter() {
        if (fd_ < 0) return;
        ::close(fd_);
        ::unlink(temporary_.c_str());
    }
    PartWriter(const PartWriter&) = delete;
    PartWriter& operator=(const PartWriter&) = delete;

    void write(const void* data, std::size_t size) {
        const char* bytes = static_cast<const char*>(data);
        while (size > 0) {
            const ssize_t n = ::write(fd_, bytes, size);
            check(n > 0);
            bytes += n;
            size -= static_cast<std::size_t>(n);
        }
    }
    void commit() {
        check(::fsync(fd_) == 0);
        fs::rename(temporary_, path_);
        ::close(fd_);
        fd_ = -1;
    }

private:
    void check(bool ok) const { require(ok, path_.string(), ": cannot write: ", std::strerror(errno)); }

    fs::path path_;
    fs::path temporary_;
    int fd_ = -1;
};

const char* stored_name(DType dtype) {
    switch (dtype) {
        case DType::f64:
            return "F64";
        case DType::f32:
            return "F32";
        case DType::bf16:
            return "BF16";
        case DType::i32:
            break;
    }
    return "I32";
}

using Item = StateDict::const_pointer;

/// The type a tensor is written in: `wanted`, when it holds floats.
DType written_type(const Tensor& t, std::optional<DType> wanted) {
    return t.dtype() == DType::i32 ? DType::i32 : wanted.value_or(t.dtype());
}

std::string header_of(const std::vector<Item>& items, std::optional<DType> dtype,
                      const std::map<std::string, std::string>& metadata) {
    Json header = Json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::uint64_t at = 0;
    for (const Item item : items) {
        const Tensor& t = item->second;
        const DType type = written_type(t, dtype);
        const std::uint64_t end = at + static_cast<std::uint64_t>(t.numel()) * tensor::size_of(type);
        header[item->first] = {{"dtype", stored_name(type)}, {"shape", t.shape()}, {"data_offsets", {at, end}}};
        at = end;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
}

}  // namespace

StateDict read_safetensors(const fs::path& path) {
    const auto file = std::make_shared<const MappedFile>(path);
    const std::string where = path.string();
    const std::string_view text = header_text(*file, where);
    const Header header = parse_header(text, where);
    const std::uint64_t data_size = file->size() - 8 - text.size();
    std::vector<Entry> entries;
    for (const auto& [name, json] : header.items())
        if (name != "__metadata__")
            entries.push_back(read_entry(name, json, data_size, cat(where, ": tensor ", quoted(name))));
    check_layout(entries, data_size, where);
    StateDict tensors;
    const std::byte* data = file->data() + 8 + text.size();
    for (const Entry& entry : entries) tensors.emplace(entry.name, load(entry, data, file));
    return tensors;
}

void write_safetensors(const fs::path& path, const StateDict& tensors, std::optional<DType> dtype,
                       const std::map<std::string, std::string>& metadata, const Fetch& fetch) {
    std::vector<Item> items;
    for (const auto& item : tensors) {
        require(fetch || item.second.defined(), path.string(), ": tensor ", item.first, " has no storage");
        items.push_back(&item);
    }
    // Wider types first: then every tensor is aligned for its type.
    const auto width = [dtype](Item item) { return tensor::size_of(written_type(item->second, dtype)); };
    std::stable_sort(items.begin(), items.end(), [&](Item a, Item b) { return width(a) > width(b); });
    const std::string header = header_of(items, dtype, metadata);
    const std::uint64_t length = header.size();
    PartWriter file(path);
    file.write(&length, sizeof length);
    file.write(header.data(), header.size());
    for (const Item item : items) {
        const Tensor whole = fetch ? fetch(item->first) : item->second;
        require(whole.shape() == item->second.shape() && whole.dtype() == item->second.dtype(), path.string(),
                ": tensor ", item->first, " has come in another shape or type");
        const Tensor t = whole.to(written_type(whole, dtype)).to(tensor::Device{});
        file.write(t.raw(), t.nbytes());
    }
    file.commit();
}

}  // namespace uipe::llama
