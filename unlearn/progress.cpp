#include "unlearn/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace uipe::unlearn {
namespace {

constexpr double seconds_between_lines = 10.0;  // where output is no terminal
constexpr double seconds_between_frames = 0.1;  // on one

bool silent = false;

double since(std::chrono::steady_clock::time_point t) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

}  // namespace

std::string clock_text(double seconds) {
    const auto s = static_cast<long long>(std::llround(std::clamp(seconds, 0.0, 1e9)));
    char text[48];
    if (s >= 3600)
        std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        std::snprintf(text, sizeof text, "%lld:%02lld", s / 60, s % 60);
    return text;
}

std::string grouped(double value) {
    std::string digits = std::to_string(std::llround(std::clamp(value, 0.0, 1e15)));
    for (std::size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
    return digits;
}

void set_silent(bool on) { silent = on; }

void say(const std::string& line) {
    if (!silent) std::fprintf(stderr, "%s\n", line.c_str());
}

Progress::Progress(std::string label, double total, double done)
    : label_(std::move(label)),
      total_(total),
      first_(done),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(Clock::now()),
      shown_(start_) {}

Progress::~Progress() {
    if (open_) std::fputc('\n', stderr);
}

void Progress::update(double done, const std::string& figures) {
    const bool last = done >= total_;
    if (silent) return;
    if (finished_ && last) return;
    finished_ = last;
    if (!last && since(shown_) < (terminal_ ? seconds_between_frames : seconds_between_lines)) return;
    shown_ = Clock::now();
    const double elapsed = since(start_);
    const double share = total_ > 0 ? std::clamp(done / total_, 0.0, 1.0) : 1.0;
    const double rate = (done - first_) / elapsed;
    const std::string time = last ? "in " + clock_text(elapsed)
                                  : "ETA " + (rate > 0 ? clock_text((total_ - done) / rate) : std::string("?"));
    char line[256];
    std::snprintf(line, sizeof line, "%s  %3.0f%%  %s  %s", label_.c_str(), std::floor(100.0 * share), time.c_str(),
                  figures.c_str());
    std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line);
    std::fflush(stderr);
    open_ = terminal_;
}

}  // namespace uipe::unlearn
