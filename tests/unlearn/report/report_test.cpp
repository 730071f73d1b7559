#include "unlearn/report/report.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "tensor/base/error.h"
#include "tests/unlearn/report/run_fixture.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {
namespace {

using testing::RunShape;
using testing::Scratch;

std::string page_of(const Scratch& scratch, const std::vector<std::string>& runs, ReportOptions options = {}) {
    std::vector<fs::path> folders;
    for (const std::string& run : runs) folders.push_back(scratch.path / run);
    write_report(folders, scratch.path / "report.html", options);
    return read_file(scratch.path / "report.html");
}

std::size_t occurrences(const std::string& text, const std::string& part) {
    std::size_t n = 0;
    for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
    return n;
}

/// The first tag that is closed without having been opened last, or "" in a page whose tags nest.
std::string badly_nested(const std::string& page) {
    const std::set<std::string> empty_elements = {"meta", "br", "!doctype"};
    std::vector<std::string> open;
    for (std::size_t at = 0; (at = page.find('<', at)) != std::string::npos;) {
        const std::size_t end = page.find('>', at);
        if (end == std::string::npos) return "an unfinished tag";
        const bool closes = page[at + 1] == '/', closed = page[end - 1] == '/';
        const std::size_t name_at = at + (closes ? 2 : 1);
        const std::string name = page.substr(name_at, page.find_first_of(" \n\t/>", name_at) - name_at);
        at = end;
        if (closed || empty_elements.contains(name)) continue;
        if (!closes) {
            open.push_back(name);
        } else {
            if (open.empty() || open.back() != name) return name;
            open.pop_back();
        }
    }
    return open.empty() ? "" : open.back();
}

TEST(Report, HoldsEveryPart) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {.method = "ga"});
    testing::write_run(scratch.path / "npo", {.method = "npo", .peak = 7, .selected = 5});
    testing::write_training_run(scratch.path / "full", "fine-tuning");
    testing::write_retain(scratch.path / "retain");
    const std::string page =
        page_of(scratch, {"full", "ga", "npo"},
                {.title = "A title & more", .retain = scratch.path / "retain", .facts = {{"Size", "1 < 2"}}});
    for (const char* id : {"tradeoff", "comparison", "reading", "results", "alpha", "curves", "answers", "settings"})
        EXPECT_EQ(occurrences(page, cat("<section id=\"", id, "\"")), 1u) << id;
    EXPECT_NE(page.find("<h1>A title &amp; more</h1>"), std::string::npos);
    EXPECT_NE(page.find("<dt>Size</dt><dd>1 &lt; 2</dd>"), std::string::npos);
    EXPECT_NE(page.find("<dt>Questions to forget</dt><dd>64</dd>"), std::string::npos);
    EXPECT_NE(page.find("Training loss: fine-tuning"), std::string::npos);
    EXPECT_NE(page.find("retain model: never saw"), std::string::npos);
    EXPECT_EQ(badly_nested(page), "");
}

TEST(Report, EveryExtrapolatedPointHasItsControl) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {.peak = 5, .selected = 4, .alphas = {0.5, 1}});
    const std::string page = page_of(scratch, {"ga"});
    EXPECT_EQ(occurrences(page, "<tr class=\"uipe\">"), 2u);
    EXPECT_EQ(occurrences(page, "control: trained on, best</td><td class=\"number\">5</td>"), 1u);
    EXPECT_EQ(occurrences(page, "control: trained on, last</td><td class=\"number\">10</td>"), 1u);
    EXPECT_NE(page.find("0.50</td><td class=\"number\">1.50</td>"), std::string::npos);  // α and 1 + α
}

TEST(Report, OverForgettingIsMarkedOnceUnlearningBegan) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {});
    write_file(scratch.path / "retain.json", "{\"forget_truth_ratio_median\": 0.5}");  // below every epoch's
    const std::string page = page_of(scratch, {"ga"}, {.retain = scratch.path / "retain.json"});
    const std::string arrow = "<span class=\"over\">&#8239;↑</span></td>";
    EXPECT_EQ(occurrences(page, arrow), 7u);  // selected, four extrapolated, two controls; not before unlearning
}

TEST(Report, ChoosesControlsAndPoints) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {.epochs = 8, .peak = 5, .selected = 2, .alphas = {0.5, 1.0, 3.75}});
    const RunRecord run = read_run(scratch.path / "ga");
    EXPECT_EQ(trained_on(run, 2).best->epoch, 5);
    EXPECT_EQ(trained_on(run, 2).last->epoch, 8);
    EXPECT_EQ(trained_on(run, 6).best->epoch, 7);
    EXPECT_EQ(trained_on(run, 8).best, nullptr);
    EXPECT_EQ(best_extrapolation(run)->alpha, 3.75);  // 2 (1 + 0.4 · 3.75) = 5, where the fixture peaks
}

TEST(Report, ComparesBothSidesAtTheThreshold) {
    const Scratch scratch;
    const auto point = [&](const std::string& folder, double quality, double utility) {
        write_file(scratch.path / "run" / folder / "TOFU_SUMMARY.json",
                   cat("{\"forget_quality\": ", quality, ", \"model_utility\": ", utility, "}"));
    };
    point("epochs/0", 0.9, 0.9);   // before unlearning: no candidate
    point("epochs/1", 0.05, 0.8);  // at the threshold: not above it
    point("epochs/2", 0.3, 0.5);
    point("extrapolations/a", 0.2, 0.625);
    write_file(scratch.path / "run/extrapolations/a/extrapolation.json", "{\"epoch\": 1, \"alpha\": 2}");
    const std::string page = page_of(scratch, {"run"});
    EXPECT_NE(page.find("0.300 / 0.500 <span class=\"muted\">epoch 2</span>"), std::string::npos);
    EXPECT_NE(page.find("0.200 / 0.625 <span class=\"muted\">epoch 1, α 2.00</span>"), std::string::npos);
    EXPECT_NE(page.find("+0.125</td>"), std::string::npos);
    EXPECT_NE(page.find("−0.100</td>"), std::string::npos);
}

TEST(Report, HostileTextStaysText) {
    const Scratch scratch;
    const std::string hostile =
        "</p><script>alert(1)</script>`touch pwned`'\"\n$(touch pwned) <img src=x onerror=alert(1)>";
    testing::write_run(scratch.path / "ga", {.hostile = hostile});
    const std::string page = page_of(scratch, {"ga"});
    EXPECT_NE(page.find("&lt;script&gt;alert(1)"), std::string::npos);
    EXPECT_EQ(page.find("<script"), std::string::npos);
    EXPECT_EQ(page.find("<img"), std::string::npos);
    EXPECT_EQ(badly_nested(page), "");
    EXPECT_FALSE(fs::exists("pwned"));
}

TEST(Report, AsksNothingOfTheNetwork) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {});
    std::string page = page_of(scratch, {"ga"});
    for (const std::string part : {"src=", "<link", "@import", "url(", "https://", "<script", "href=\"", "href='h"})
        EXPECT_EQ(page.find(part), std::string::npos) << part;
    EXPECT_EQ(occurrences(page, "http://"), occurrences(page, "=\"http://www.w3.org/"));  // names of XML, not addresses
}

TEST(Report, LongAnswersAreCutBetweenCharacters) {
    const Scratch scratch;
    std::string answer = "x";
    for (int i = 0; i < 500; ++i) answer += "ä";
    write_file(scratch.path / "ga/epochs/1/TOFU_EVAL.json",
               cat("{\"forget_Q_A_ROUGE\": {\"value_by_index\": {\"0\": {\"input\": \"q\", \"ground_truth\": \"t\", "
                   "\"generation\": \"",
                   answer, "\"}}}}"));
    const std::string page = page_of(scratch, {"ga"});
    EXPECT_NE(page.find("ää […]"), std::string::npos);
    EXPECT_EQ(occurrences(page, "ä"), 299u);  // 600 bytes hold x and 299 whole characters
}

TEST(Report, ShowsWhatThereIs) {
    const Scratch scratch;
    fs::create_directories(scratch.path / "foreign");
    EXPECT_THROW(page_of(scratch, {"foreign"}), InputError);  // no run at all
    write_file(scratch.path / "bare/config.json", "{\"command\": \"unlearn\", \"method\": \"ga\"}");
    EXPECT_EQ(badly_nested(page_of(scratch, {"bare"})), "");
    EXPECT_EQ(badly_nested(page_of(scratch, {})), "");

    testing::write_retain(scratch.path / "judged");  // what `eval` leaves: one evaluation, no epochs
    const std::string page = page_of(scratch, {"judged"});
    EXPECT_NE(page.find("<td>judged</td>"), std::string::npos);
    EXPECT_EQ(page.find("id=\"comparison\""), std::string::npos);
}

TEST(Report, RunsOfOneNameAreToldApart) {
    const Scratch scratch;
    testing::write_run(scratch.path / "a", {.method = "ga"});
    testing::write_run(scratch.path / "b", {.method = "ga"});
    write_file(scratch.path / "b/config.json", "{\"method\": \"ga\", \"seed\": 1}");
    const std::string page = page_of(scratch, {"a", "b"});
    EXPECT_NE(page.find("GA · seed 0"), std::string::npos);
    EXPECT_NE(page.find("GA · seed 1"), std::string::npos);
}

TEST(Report, IsWrittenWithoutGnuplotToo) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {});
    const std::string path = std::getenv("PATH");
    ::setenv("PATH", scratch.path.c_str(), 1);
    const std::string page = page_of(scratch, {"ga"});
    ::setenv("PATH", path.c_str(), 1);
    EXPECT_NE(page.find("No picture: gnuplot is not installed"), std::string::npos);
    EXPECT_EQ(page.find("<svg"), std::string::npos);
    EXPECT_NE(page.find("id=\"results\""), std::string::npos);
}

TEST(Report, AMalformedFileIsNamedAndNothingIsWritten) {
    const Scratch scratch;
    testing::write_run(scratch.path / "ga", {});
    write_file(scratch.path / "ga/epochs/4/TOFU_EVAL.json",
               "{\"forget_Q_A_ROUGE\": {\"value_by_index\": {\"x\": {}}}}");
    try {
        page_of(scratch, {"ga"});
        FAIL() << "a malformed log was accepted";
    } catch (const InputError& e) {
        EXPECT_NE(std::string(e.what()).find("ga/epochs/4/TOFU_EVAL.json"), std::string::npos) << e.what();
    }
    EXPECT_FALSE(fs::exists(scratch.path / "report.html"));
    EXPECT_THROW(page_of(scratch, {"none"}), InputError);
    EXPECT_THROW(page_of(scratch, {}, {.retain = scratch.path / "none"}), InputError);
}

}  // namespace
}  // namespace uipe::unlearn
