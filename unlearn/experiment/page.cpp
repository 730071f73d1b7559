#include "unlearn/experiment/page.h"

#include <cmath>

#include "tensor/base/error.h"
#include "unlearn/report/figure.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {

std::string text_of(const Estimate& e, int digits) {
    if (e.n == 0) return "–";
    return e.n == 1 ? decimal(e.mean, digits) : cat(decimal(e.mean, digits), " ± ", decimal(e.half, digits));
}

std::string text_of_seeds(const Estimate& e, std::size_t seeds) {
    return e.n == seeds ? text_of(e) : cat(text_of(e), " (", e.n, " of ", seeds, " seeds)");
}

Page::Page(const std::string& title, const std::string& lead) : title_(title) {
    body_ = cat("<header><h1>", escaped(title), "</h1>\n<p class=\"lead\">", lead, "</p></header>\n");
}

void Page::made_by(const std::string& command) {
    paragraph(
        cat("Made by <code>", escaped(command), "</code>",
            command.find("--quick") == std::string::npos ? "." : ": so quick a run says nothing about any claim."));
}

void Page::claims(const std::vector<Claim>& claims, std::size_t seeds) {
    std::vector<std::vector<std::string>> rows;
    for (const Claim& c : claims)
        rows.push_back({c.where, c.claim, c.measure, text_of_seeds(c.estimated(), seeds), text_of(c.result())});
    heading("What is claimed, and what was measured");
    paragraph(seeds < 2 ? "One seed: no interval, so nothing is resolved. <code>--seeds 5</code> gives one."
                        : cat("Means over ", seeds,
                              " seeds with 95 % intervals (Student’s t). A claim holds when its interval lies above 0, "
                              "does not hold when it lies below, and is not resolved when it contains 0."));
    table({"paper", "claim", "difference measured", "value", "verdict"}, rows);
}

void Page::heading(const std::string& text) { body_ += cat("<section><h2>", escaped(text), "</h2></section>\n"); }

void Page::paragraph(const std::string& html) { body_ += cat("<p>", html, "</p>\n"); }

void Page::legend(const std::vector<std::string>& names, const std::string& marks) {
    body_ += "<ul class=\"legend\">";
    for (std::size_t i = 0; i < names.size(); ++i)
        body_ += cat("<li><span class=\"swatch\" style=\"background:", plot_color(static_cast<int>(i)), "\"></span>",
                     escaped(names[i]), "</li>");
    body_ += marks + "</ul>\n";
}

void Page::figures(const std::vector<Picture>& pictures, std::size_t columns) {
    const std::string style = columns == 0 ? ""
                                           : cat(" style=\"grid-template-columns:repeat(", columns, ",minmax(0,",
                                                 columns == 1 ? "460px" : "1fr", "))\"");
    body_ += cat("<div class=\"grid\"", style, ">");
    for (const Picture& p : pictures) body_ += figure(p.plot, cat("figure", ++drawn_), p.title, p.caption);
    body_ += "</div>\n";
}

void Page::table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
    body_ += "<div class=\"scroll\"><table><thead><tr>";
    for (const std::string& cell : head) body_ += cat("<th scope=\"col\">", escaped(cell), "</th>");
    body_ += "</tr></thead><tbody>\n";
    for (const std::vector<std::string>& row : rows) {
        body_ += "<tr>";
        for (const std::string& cell : row) body_ += cat("<td>", escaped(cell), "</td>");
        body_ += "</tr>\n";
    }
    body_ += "</tbody></table></div>\n";
}

void Page::listing(const std::string& title, const std::string& text) {
    body_ += cat("<details><summary>", escaped(title), "</summary><pre>", escaped(text), "</pre></details>\n");
}

void Page::write(const fs::path& file) const {
    write_file(file, cat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
                         escaped(title_), "</title>\n<style>", style_sheet(), "</style></head>\n<body><main>\n", body_,
                         "</main></body></html>\n"));
}

}  // namespace uipe::unlearn
