// The whole program, for main.
#pragma once

namespace uipe::unlearn {

/// Parses, runs, prints errors in one line. Returns the exit code: 0; 1 for a failure; 2 for bad input.
int run_program(int argc, char** argv);

}  // namespace uipe::unlearn
