#include "unlearn/prediction.h"

#include <algorithm>

namespace uipe::unlearn {

// NVIDIA's data sheets: H100 SXM, H200 SXM, A100 SXM (NVLink), GeForce RTX 4090 (PCIe 4.0 x16). Networks: eight ports
// of 400 Gb/s (DGX H100), of 200 Gb/s (DGX A100), one of 100 Gb/s. 1 GB is 10^9 bytes.
const std::vector<Chip>& chips() {
    static const std::vector<Chip> all{
        {"h200", 141e9, 989e12, 67e12, 4.8e12, 450e9, 400e9},
        {"h100", 80e9, 989e12, 67e12, 3.35e12, 450e9, 400e9},
        {"a100-80g", 80e9, 312e12, 19.5e12, 2.04e12, 300e9, 200e9},
        {"a100-40g", 40e9, 312e12, 19.5e12, 1.56e12, 300e9, 200e9},
        {"rtx4090", 24e9, 165e12, 82.6e12, 1.01e12, 32e9, 12.5e9},
    };
    return all;
}

const Chip& chip_named(const std::string& name) {
    std::string known;
    for (const Chip& chip : chips()) {
        if (name == chip.name) return chip;
        known += (known.empty() ? "" : ", ") + std::string(chip.name);
    }
    throw InputError(cat("unknown --chip '", name, "'; known: ", known));
}

Shares usual_shares() {
    Shares shares{};
    const auto set = [&shares](tensor::Family family, double share) {
        shares[static_cast<std::size_t>(family)] = share;
    };
    set(tensor::Family::matmul, 0.7);
    set(tensor::Family::attention, 0.4);
    set(tensor::Family::norm, 0.6);
    set(tensor::Family::elementwise, 0.7);
    set(tensor::Family::heads, 0.6);
    set(tensor::Family::optimizer, 0.8);
    set(tensor::Family::copies, 0.8);
    return shares;
}

Shares parse_shares(const std::string& text) {
    Shares shares = usual_shares();
    std::istringstream items(text);
    for (std::string item; std::getline(items, item, ',');) {
        const std::size_t sign = item.find('=');
        const std::string name = item.substr(0, sign);
        std::string known;
        double* share = nullptr;
        for (std::size_t i = 0; i < shares.size(); ++i) {
            const std::string family = tensor::name_of(static_cast<tensor::Family>(i));
            known += (known.empty() ? "" : ", ") + family;
            if (name == family) share = &shares[i];
        }
        require_input(share != nullptr, "--shares: unknown family '", name, "'; known: ", known);
        std::istringstream number(sign == std::string::npos ? "" : item.substr(sign + 1));
        require_input(number >> *share && number.eof() && *share > 0 && *share <= 1, "--shares: '", item,
                      "': give a family and its share of the roof, above 0 up to 1, such as matmul=0.7");
    }
    return shares;
}

Prediction predict(const tensor::Profile& work, const PredictionOptions& o) {
    Prediction p;
    double calls = 0;
    for (std::size_t i = 0; i < work.size(); ++i) {
        p.seconds[i] = work[i].least / o.shares[i];
        p.compute += p.seconds[i];
        calls += static_cast<double>(work[i].calls);
    }
    p.compute = std::max(p.compute, calls * o.launch);
    if (o.ranks > 1) {
        const Wires& w = o.wires;
        const double rate = o.ranks <= w.ranks_a_machine ? w.link : std::min(w.link, w.network);
        const double hops = o.ranks - 1;
        p.communication = o.traffic * hops / o.ranks / rate + static_cast<double>(o.calls) * hops * w.hop;
    }
    // A backward pass is two thirds of a step's products.
    p.step = p.compute + std::max(0.0, p.communication - o.overlap * 2.0 / 3.0 * p.compute);
    return p;
}

}  // namespace uipe::unlearn
