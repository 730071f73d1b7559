#include "tensor/comm/launch.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace uipe::tensor::test {
namespace {

using Variables = std::map<std::string, std::string>;

/// An environment with these variables of launchers and no others, until the test ends.
class Environment {
public:
    explicit Environment(const Variables& variables) {
        for (const char* name : {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
                                 "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID",
                                 "MPI_LOCALNRANKS", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID",
                                 "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "PMIX_RANK", "OMP_NUM_THREADS"}) {
            if (const char* value = std::getenv(name); value != nullptr) before_[name] = value;
            ::unsetenv(name);
            names_.emplace_back(name);
        }
        for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    }
    ~Environment() {
        for (const std::string& name : names_) ::unsetenv(name.c_str());
        for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
    }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

private:
    std::vector<std::string> names_;
    Variables before_;
};

void expect_place(int ranks, int rank, int local_ranks, int local_rank) {
    const Launched place = launched();
    EXPECT_EQ(place.ranks, ranks);
    EXPECT_EQ(place.rank, rank);
    EXPECT_EQ(place.local_ranks, local_ranks);
    EXPECT_EQ(place.local_rank, local_rank);
}

TEST(Launch, WithoutALauncherThereIsOneRank) {
    const Environment none(Variables{});
    expect_place(1, 0, 1, 0);
    EXPECT_EQ(rank_label(), "");
    EXPECT_EQ(default_threads(), omp_get_num_procs());
}

TEST(Launch, OpenMpiSaysAll) {
    const Environment variables(Variables{{"OMPI_COMM_WORLD_SIZE", "8"},
                                          {"OMPI_COMM_WORLD_RANK", "5"},
                                          {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                                          {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                          {"PMIX_RANK", "5"}});
    expect_place(8, 5, 4, 1);
    EXPECT_EQ(rank_label(), "rank 5: ");
}

TEST(Launch, MpichSaysAll) {
    const Environment variables(
        Variables{{"PMI_SIZE", "4"}, {"PMI_RANK", "3"}, {"MPI_LOCALNRANKS", "2"}, {"MPI_LOCALRANKID", "1"}});
    expect_place(4, 3, 2, 1);
}

TEST(Launch, SlurmSaysHowManyTasksEachMachineHas) {
    const Environment variables(Variables{{"SLURM_NTASKS", "6"},
                                          {"SLURM_STEP_NUM_TASKS", "6"},
                                          {"SLURM_PROCID", "4"},
                                          {"SLURM_LOCALID", "1"},
                                          {"SLURM_STEP_TASKS_PER_NODE", "3(x2)"}});
    expect_place(6, 4, 3, 1);
}

TEST(Launch, ABatchScriptOfSlurmIsOneProcess) {
    const Environment variables(Variables{{"SLURM_NTASKS", "6"}, {"SLURM_PROCID", "0"}});
    expect_place(1, 0, 1, 0);
}

TEST(Launch, PmixAloneLeavesTheNumberToMpi) {
    const Environment variables(Variables{{"PMIX_RANK", "2"}});
    expect_place(0, 2, 1, 2);
    EXPECT_EQ(rank_label(), "rank 2: ");
}

TEST(Launch, OneRankOfALauncherIsOneProcess) {
    const Environment variables(Variables{{"OMPI_COMM_WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "0"}});
    expect_place(1, 0, 1, 0);
}

TEST(Launch, WhatIsNoNumberIsNoVariable) {
    const Environment variables(Variables{{"OMPI_COMM_WORLD_SIZE", "many"}, {"OMPI_COMM_WORLD_RANK", "0"}});
    expect_place(1, 0, 1, 0);
}

TEST(Launch, RanksOnAMachineShareItsProcessors) {
    const Variables two{{"OMPI_COMM_WORLD_SIZE", "2"},
                        {"OMPI_COMM_WORLD_RANK", "0"},
                        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                        {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}};
    {
        const Environment variables(two);
        EXPECT_EQ(default_threads(), std::max(1, omp_get_num_procs() / 2));
    }
    Variables given = two;
    given["OMP_NUM_THREADS"] = "3,2";
    const Environment variables(given);
    EXPECT_EQ(default_threads(), 3);
}

}  // namespace
}  // namespace uipe::tensor::test
