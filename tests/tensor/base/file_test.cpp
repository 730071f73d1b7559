#include "tensor/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "tensor/base/error.h"

namespace uipe {
namespace {

/// A fresh folder that goes with the test.
class Files : public ::testing::Test {
protected:
    Files() {
        std::string name = (fs::temp_directory_path() / "uipe-file-XXXXXX").string();
        require(::mkdtemp(name.data()) != nullptr, "cannot make ", name);
        folder_ = name;
    }
    ~Files() override { fs::remove_all(folder_); }

    /// What lies in the folder, names only.
    std::vector<std::string> entries() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
        return names;
    }

    fs::path folder_;
};

template <class Failure>
std::string message_of(const std::function<void()>& act) {
    try {
        act();
    } catch (const Failure& e) {
        return e.what();
    }
    return "no failure";
}

TEST_F(Files, WhatIsWrittenIsReadBackZerosAndAll) {
    const std::string bytes("a\0b\n\xff", 5);
    write_file(folder_ / "x", bytes);
    EXPECT_EQ(read_file(folder_ / "x"), bytes);
    write_file(folder_ / "x", "");
    EXPECT_EQ(read_file(folder_ / "x"), "");
    EXPECT_EQ(entries(), std::vector<std::string>{"x"});
}

TEST_F(Files, WritingMakesTheFoldersAbove) {
    write_file(folder_ / "a/b/c", "1");
    EXPECT_EQ(read_file(folder_ / "a/b/c"), "1");
}

TEST_F(Files, AFileInPlaceOfAFolderFailsAndLeavesNothing) {
    fs::create_directories(folder_ / "x/inside");
    EXPECT_ANY_THROW(write_file(folder_ / "x", "1"));
    EXPECT_EQ(entries(), std::vector<std::string>{"x"});
    EXPECT_TRUE(fs::exists(folder_ / "x/inside"));
}

TEST_F(Files, AWriteThatDoesNotFitNamesFileAndCauseAndLeavesWhatWas) {
    write_file(folder_ / "x", "old");
    (void)std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit little{16, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
    const std::string message = message_of<Error>([&] { write_file(folder_ / "x", std::string(17, 'a')); });
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_NE(message.find((folder_ / "x").string()), std::string::npos) << message;
    EXPECT_NE(message.find("File too large"), std::string::npos) << message;
    EXPECT_EQ(read_file(folder_ / "x"), "old");
    EXPECT_EQ(entries(), std::vector<std::string>{"x"});
}

TEST_F(Files, ReleasedPagesOfAMapComeAgain) {
    std::string bytes(100000, 'a');
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
    write_file(folder_ / "x", bytes);
    const MappedFile map(folder_ / "x");
    map.release(0, 10);
    map.release(5000, 90000);
    map.release(0, map.size());
    EXPECT_EQ(std::memcmp(map.data(), bytes.data(), bytes.size()), 0);
}

TEST_F(Files, ReadingWhatIsNoRegularFileIsTheUsersErrorAndNamesThePath) {
    const fs::path missing = folder_ / "missing";
    EXPECT_NE(message_of<InputError>([&] { read_file(missing); }).find(missing.string()), std::string::npos);
    EXPECT_NE(message_of<InputError>([&] { read_file(folder_); }).find("folder"), std::string::npos);
    EXPECT_NE(message_of<InputError>([&] { MappedFile{missing}; }).find(missing.string()), std::string::npos);
    EXPECT_NE(message_of<InputError>([&] { MappedFile{folder_}; }).find("folder"), std::string::npos);
    EXPECT_NE(message_of<InputError>([&] { read_file("/dev/null"); }).find("regular"), std::string::npos);
}

TEST_F(Files, APipeIsRefusedAsNoRegularFile) {
    const fs::path pipe = folder_ / "pipe";
    ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
    const int keeps_it_open =
        ::open(pipe.c_str(), O_RDWR | O_NONBLOCK);  // an open for reading alone would wait for a writer
    EXPECT_NE(message_of<InputError>([&] { read_file(pipe); }).find("regular"), std::string::npos);
    ::close(keeps_it_open);
}

TEST_F(Files, WritingFollowsALinkAndLeavesADeviceAlone) {
    write_file(folder_ / "real", "old");
    fs::create_symlink(folder_ / "real", folder_ / "link");
    write_file(folder_ / "link", "new");
    EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
    EXPECT_EQ(read_file(folder_ / "real"), "new");
    fs::create_symlink("/dev/null", folder_ / "device");  // by a link: a test must not be able to harm the device
    EXPECT_THROW(write_file(folder_ / "device", "x"), InputError);
    EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(Files, AMapHoldsTheBytesAndAnEmptyFileMapsToNothing) {
    write_file(folder_ / "x", "hello");
    const MappedFile map(folder_ / "x");
    ASSERT_EQ(map.size(), 5U);
    EXPECT_EQ(std::memcmp(map.data(), "hello", 5), 0);
    write_file(folder_ / "x", "other");  // renamed into place: the map keeps the file it opened
    EXPECT_EQ(std::memcmp(map.data(), "hello", 5), 0);
    write_file(folder_ / "none", "");
    EXPECT_EQ(MappedFile(folder_ / "none").size(), 0U);
}

TEST_F(Files, AFolderAppearsWholeUnderItsNameWithASlashOrWithout) {
    for (const char* name : {"out", "out/"}) {
        write_folder(folder_ / name, [&](const fs::path& temporary) {
            EXPECT_NE(temporary, folder_ / "out");
            EXPECT_EQ(temporary.parent_path(), folder_);  // the same file system, so that a rename is enough
            fs::create_directories(temporary / "sub");
            write_file(temporary / "sub/x", name);
        });
        EXPECT_EQ(read_file(folder_ / "out/sub/x"), name);
        EXPECT_EQ(entries(), std::vector<std::string>{"out"});
    }
}

TEST_F(Files, AnExceptionWhileFillingLeavesNothingAndKeepsTheOldFolder) {
    auto fail = [](const fs::path& temporary) {
        write_file(temporary / "half", "1");
        throw std::runtime_error("stop");
    };
    EXPECT_EQ(message_of<std::runtime_error>([&] { write_folder(folder_ / "out", fail); }), "stop");
    EXPECT_TRUE(entries().empty());
    write_folder(folder_ / "out", [](const fs::path& temporary) { write_file(temporary / "old", "1"); });
    EXPECT_EQ(message_of<std::runtime_error>([&] { write_folder(folder_ / "out", fail); }), "stop");
    EXPECT_EQ(entries(), std::vector<std::string>{"out"});
    EXPECT_EQ(read_file(folder_ / "out/old"), "1");
    EXPECT_FALSE(fs::exists(folder_ / "out/half"));
}

TEST_F(Files, ANewFolderReplacesTheOldOneEntirely) {
    write_folder(folder_ / "out", [](const fs::path& temporary) { write_file(temporary / "old", "1"); });
    write_folder(folder_ / "out", [](const fs::path& temporary) { write_file(temporary / "new", "2"); });
    EXPECT_FALSE(fs::exists(folder_ / "out/old"));
    EXPECT_EQ(read_file(folder_ / "out/new"), "2");
    EXPECT_EQ(entries(), std::vector<std::string>{"out"});
}

TEST_F(Files, ALeftoverOfAKilledWriterIsNotMixedIn) {
    const fs::path leftover = folder_ / ("out.tmp-" + std::to_string(::getpid()));
    fs::create_directories(leftover);
    write_file(leftover / "stale", "1");
    write_folder(folder_ / "out", [](const fs::path& temporary) { write_file(temporary / "x", "1"); });
    EXPECT_FALSE(fs::exists(folder_ / "out/stale"));
}

}  // namespace
}  // namespace uipe
