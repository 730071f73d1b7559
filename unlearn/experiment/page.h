// The page of an experiment: what the paper claims, what was measured, and whether it holds.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tensor/base/file.h"
#include "unlearn/experiment/statistics.h"
#include "unlearn/report/plot.h"

namespace uipe::unlearn {

/// A claim in words, and the difference that is above 0 if it is true, one value a seed.
struct Claim {
    std::string where;  // in the paper: "figure 2"
    std::string claim;
    std::string measure;  // what the difference is, and its unit
    std::vector<double> differences;

    Estimate estimated() const { return estimate(differences); }
    Verdict result() const { return verdict(estimated()); }
};

/// "0.123 ± 0.045", or "0.123" for one value; "–" for none.
std::string text_of(const Estimate& estimate, int digits = 3);

/// The same of so many seeds, with how many of them say something where not all do: "0.123 ± 0.045 (3 of 5 seeds)".
std::string text_of_seeds(const Estimate& estimate, std::size_t seeds);

/// Collects a page piece by piece; texts are HTML unless said otherwise, and headings and cells are escaped here.
class Page {
public:
    Page(const std::string& title, const std::string& lead);

    /// The command as it was given.
    void made_by(const std::string& command);
    void claims(const std::vector<Claim>& claims, std::size_t seeds);
    void heading(const std::string& text);
    void paragraph(const std::string& html);
    /// Colour by colour what the figures that follow draw; marks are HTML.
    void legend(const std::vector<std::string>& names, const std::string& marks = "");
    struct Picture {
        Plot plot;
        std::string title, caption;
    };
    /// Figures side by side, so many a row or, with 0, as many as fit.
    void figures(const std::vector<Picture>& pictures, std::size_t columns = 0);
    void table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);
    /// Lines as they are.
    void listing(const std::string& title, const std::string& text);
    void write(const fs::path& file) const;

private:
    std::string title_, body_;
    int drawn_ = 0;
};

}  // namespace uipe::unlearn
