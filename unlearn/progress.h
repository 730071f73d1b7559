// Progress of long work on standard error: one line that renews itself on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <string>

namespace uipe::unlearn {

class Progress {
public:
    /// `total` units of work under the name `label`, of which `done` were done before.
    Progress(std::string label, double total, double done = 0);
    /// Ends the line, if one is open.
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// `done` of `total`, with figures to show beside the bar ("loss 1.23  4,100 tok/s").
    void update(double done, const std::string& figures = "");

private:
    using Clock = std::chrono::steady_clock;
    std::string label_;
    double total_;
    double first_;
    bool terminal_;
    bool open_ = false;
    bool finished_ = false;
    Clock::time_point start_;
    Clock::time_point shown_;
};

/// "1:05" or "2:03:04".
std::string clock_text(double seconds);
/// 12345.6 as "12,346".
std::string grouped(double value);
/// Of several ranks one speaks: the others neither say() nor show progress.
void set_silent(bool on);
/// A line on standard error.
void say(const std::string& line);

}  // namespace uipe::unlearn
