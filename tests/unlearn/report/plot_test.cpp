#include "unlearn/report/plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "tests/unlearn/report/run_fixture.h"

namespace uipe::unlearn {
namespace {

Plot sample() {
    Plot plot{.x_label = "epoch", .y_label = "forget quality", .log_y = true, .threshold = 0.05};
    plot.series.push_back({{{0, 1e-300}, {1, 1e-3}, {2, 0.4}, {3, NAN}, {4, INFINITY}}, 0, Line::solid, Marker::dot});
    plot.series.push_back({{{1, 0.2}}, 1, Line::none, Marker::ring});
    plot.series.push_back({{}, 2, Line::dashed, Marker::diamond});
    plot.series.push_back({{{1, 0.3}, {2, 0.1}}, 3, Line::solid, Marker::none});
    return plot;
}

/// Sets PATH for as long as it lives.
struct PathGuard {
    std::string before;
    explicit PathGuard(const std::string& path) : before(std::getenv("PATH")) { ::setenv("PATH", path.c_str(), 1); }
    ~PathGuard() { ::setenv("PATH", before.c_str(), 1); }
};

bool have_gnuplot() { return draw(sample(), "p").why_not.find("not installed") == std::string::npos; }

TEST(Plot, DrawsAnSvgThatFitsIntoAPage) {
    if (!have_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
    const Drawing drawing = draw(sample(), "first");
    ASSERT_EQ(drawing.why_not, "");
    EXPECT_EQ(drawing.svg.rfind("<svg", 0), 0u);
    EXPECT_NE(drawing.svg.find("viewBox=\"0 0 440 320\""), std::string::npos);
    EXPECT_NE(drawing.svg.find("forget quality"), std::string::npos);
    EXPECT_NE(drawing.svg.find("currentColor"), std::string::npos);
    EXPECT_EQ(drawing.svg.find("'black'"), std::string::npos);
    EXPECT_EQ(drawing.svg.find("id='gp"), std::string::npos);  // every id is the plot's own
    EXPECT_NE(drawing.svg.find("id='first-gpPt"), std::string::npos);
    EXPECT_EQ(drawing.svg.find("<script"), std::string::npos);
}

TEST(Plot, ValuesBelowTheFloorAreDrawnAtIt) {
    if (!have_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
    Plot low = sample(), floor = sample();
    floor.series[0].points[0].second = floor.log_floor;
    EXPECT_EQ(draw(low, "p").svg, draw(floor, "p").svg);
    floor.series[0].points[0].second = 1e-4;
    EXPECT_NE(draw(low, "p").svg, draw(floor, "p").svg);
}

TEST(Plot, ColoursGoRound) {
    EXPECT_NE(plot_color(0), plot_color(1));
    EXPECT_EQ(plot_color(0), plot_color(8));
}

TEST(Plot, SaysWhenGnuplotIsMissing) {
    const testing::Scratch empty;
    const PathGuard guard(empty.path.string());
    const Drawing drawing = draw(sample(), "p");
    EXPECT_EQ(drawing.svg, "");
    EXPECT_NE(drawing.why_not.find("not installed"), std::string::npos) << drawing.why_not;
}

TEST(Plot, SaysWhatGnuplotSaidWhenItFails) {
    const testing::Scratch folder;
    write_file(folder.path / "gnuplot", "#!/bin/sh\necho 'no terminal svg' >&2\nexit 1\n");
    fs::permissions(folder.path / "gnuplot", fs::perms::owner_all);
    const PathGuard guard(folder.path.string());
    const Drawing drawing = draw(sample(), "p");
    EXPECT_EQ(drawing.svg, "");
    EXPECT_NE(drawing.why_not.find("no terminal svg"), std::string::npos) << drawing.why_not;
}

}  // namespace
}  // namespace uipe::unlearn
