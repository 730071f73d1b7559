#include "unlearn/report/plot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "tensor/base/error.h"
#include "tensor/base/file.h"

namespace uipe::unlearn {
namespace {

/// A folder under the system's temporary one, removed with this object.
struct TemporaryFolder {
    fs::path path;
    TemporaryFolder() {
        std::string name = (fs::temp_directory_path() / "uipe-plot-XXXXXX").string();
        const bool made = ::mkdtemp(name.data()) != nullptr;
        require(made, name, ": cannot make a temporary folder: ", std::strerror(errno));
        path = name;
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

std::string line_of(const Series& series) {
    const char* kind = series.marker == Marker::none ? "lines" : "linespoints";
    switch (series.line) {
        case Line::none:
            return "points";
        case Line::solid:
            return cat(kind, " dashtype 1");
        case Line::dashed:
            return cat(kind, " dashtype 2");
    }
    throw Error("a line style without a name");
}

const char* marker_of(const Series& series) {
    switch (series.marker) {
        case Marker::none:
            return "";
        case Marker::dot:
            return "pointtype 7 pointsize 0.45";
        case Marker::ring:
            return "pointtype 6 pointsize 1.3";
        case Marker::diamond:
            return "pointtype 12 pointsize 1.0";
        case Marker::star:
            return "pointtype 3 pointsize 1.3";
    }
    throw Error("a marker without a name");
}

/// The data block of one series. An empty block would be an error to gnuplot, a point outside every range is not.
std::string data_block(const Series& series, const Plot& plot) {
    std::ostringstream out;
    out.precision(9);
    for (const auto& [x, y] : series.points)
        if (std::isfinite(x) && std::isfinite(y))
            out << x << ' ' << (plot.log_y ? std::max(y, plot.log_floor) : y) << '\n';
    return out.str().empty() ? "NaN NaN\n" : out.str();
}

/// The lower end of a logarithmic axis: the decade below the smallest value drawn, one below the threshold at least.
double floor_of(const Plot& plot) {
    double least = plot.threshold.value_or(1) / 10;
    for (const Series& series : plot.series)
        for (const auto& [x, y] : series.points)
            if (std::isfinite(x) && std::isfinite(y)) least = std::min(least, std::max(y, plot.log_floor));
    return std::pow(10, std::floor(std::log10(least) + 1e-9)) * 0.7;  // a little lower: markers on the axis stay whole
}

/// Between two labels of the x axis: 1, 2 or 5 of a decimal place, so that there are no more than a plot has room for;
/// 0 where the points do not differ in what is printed of them.
double x_step(const Plot& plot) {
    double least = INFINITY, greatest = -INFINITY;
    for (const Series& series : plot.series)
        for (const auto& [x, y] : series.points)
            if (std::isfinite(x) && std::isfinite(y)) least = std::min(least, x), greatest = std::max(greatest, x);
    if (plot.whole_x) return std::max(1.0, std::ceil(greatest / 10));
    if (!(greatest - least > 1e-7 * std::max(std::abs(least), std::abs(greatest)))) return 0;
    const double step = (greatest - least) / 6, place = std::pow(10, std::floor(std::log10(step)));
    for (const double digit : {1, 2, 5})
        if (digit * place >= step) return digit * place;
    return 10 * place;
}

std::string script_of(const Plot& plot) {
    std::ostringstream out;
    out << "set terminal svg size " << plot.width << ',' << plot.height
        << " dynamic font 'sans-serif,12' linewidth 1.2\n"
        << "set output 'plot.svg'\n"
        << "set encoding utf8\nset border 3 linewidth 0.6\nset tics nomirror out scale 0.5\n"
        << "set grid ytics linetype 1 linewidth 0.4 linecolor rgb '#999999' dashtype 3\n"
        << "set xlabel '" << plot.x_label << "'\nset ylabel '" << plot.y_label << "'\nunset key\n"
        << "set autoscale xfix\nset autoscale yfix\n";
    if (const double step = x_step(plot); step > 0) out << "set xtics " << step << "\n";
    if (plot.log_y)
        out << "set logscale y\nset format y '10^{%L}'\nset ytics add ('1' 1)\nunset mytics\nset yrange ["
            << floor_of(plot) << ":2]\nset offsets graph 0.04, graph 0.04, 0, 0\n";
    else
        out << "set offsets graph 0.04, graph 0.04, graph 0.06, graph 0.06\n";
    if (plot.threshold)
        out << "set arrow from graph 0, first " << *plot.threshold << " to graph 1, first " << *plot.threshold
            << " nohead linewidth 1 linecolor rgb '#999999' dashtype 2\n";
    for (std::size_t i = 0; i < plot.series.size(); ++i)
        out << "$series" << i << " << END\n" << data_block(plot.series[i], plot) << "END\n";
    out << "plot ";
    for (std::size_t i = 0; i < plot.series.size(); ++i)
        out << "$series" << i << " with " << line_of(plot.series[i]) << ' ' << marker_of(plot.series[i])
            << " linecolor rgb '" << plot_color(plot.series[i].color) << "', ";
    out << "NaN\n";
    return out.str();
}

/// Runs gnuplot on folder/plot.gp, without a shell and without the user's own settings. Returns "" or what went wrong.
std::string run_gnuplot(const fs::path& folder) {
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "errors", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawnattr_t attributes;  // this process blocks signals (unlearn/stop_signals.h), gnuplot is not to
    sigset_t none;
    sigemptyset(&none);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    std::array<std::string, 3> words = {"gnuplot", "--default-settings", "plot.gp"};
    std::array<char*, 4> arguments = {words[0].data(), words[1].data(), words[2].data(), nullptr};
    pid_t child = 0;
    const int fault = ::posix_spawnp(&child, "gnuplot", &actions, &attributes, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    if (fault == ENOENT) return "gnuplot is not installed (Debian and Ubuntu: apt-get install gnuplot-nox)";
    if (fault != 0) return cat("gnuplot could not be started: ", std::strerror(fault));
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return cat("gnuplot was lost: ", std::strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && fs::exists(folder / "plot.svg")) return "";
    return cat("gnuplot failed: ", read_file(folder / "errors").substr(0, 400));
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
}

/// The `<svg>` element alone, its ids made the page's own, its black the page's text colour.
std::string inlined(std::string svg, const std::string& id) {
    svg.erase(0, svg.find("<svg"));
    const std::size_t title = svg.find("<title>"), end = svg.find("</desc>");
    if (title != std::string::npos && end != std::string::npos) svg.erase(title, end + std::strlen("</desc>") - title);
    for (const std::string name : {"gpDot", "gpPt", "gnuplot_", "textbox", "greybox"})
        replace_all(svg, name, id + "-" + name);
    for (const std::string quote : {"'", "\""})
        replace_all(svg, quote + "black" + quote, quote + "currentColor" + quote);
    replace_all(svg, "rgb(  0,   0,   0)", "currentColor");
    return svg;
}

}  // namespace

std::string plot_color(int index) {
    static const std::array<const char*, 8> colors = {"#3f7fc4", "#d2622a", "#2f9e6e", "#9b62b8",
                                                      "#b8931f", "#d0527f", "#3ba3b5", "#7d8590"};
    return colors[static_cast<std::size_t>(index) % colors.size()];
}

Drawing draw(const Plot& plot, const std::string& id) {
    const TemporaryFolder folder;
    write_file(folder.path / "plot.gp", script_of(plot));
    const std::string fault = run_gnuplot(folder.path);
    if (!fault.empty()) return {"", fault};
    return {inlined(read_file(folder.path / "plot.svg"), id), ""};
}

}  // namespace uipe::unlearn
