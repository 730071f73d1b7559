#include "tensor/base/json.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "tensor/base/error.h"

namespace uipe {
namespace {

std::string fault_of(const std::string& text) {
    try {
        parse_json(text, "here.json");
    } catch (const InputError& e) {
        return e.what();
    }
    return "no fault";
}

TEST(ParseJson, KeepsTheOrderOfKeysAndEveryKindOfValue) {
    const Json json = parse_json(R"({"z": 1, "a": [true, null, -2.5, "ü\n"], "m": {}})", "here");
    EXPECT_EQ(json.begin().key(), "z");
    EXPECT_EQ(json.dump(), "{\"z\":1,\"a\":[true,null,-2.5,\"ü\\n\"],\"m\":{}}");
}

TEST(ParseJson, AFaultNamesThePlaceAndTheByteInOneLine) {
    for (const char* text : {"{\"a\": }", "", "[1,2", "{\"a\" 1}", "nul", "1 2", "\"\xff\"", "]", "{\"a\":1}}"}) {
        const std::string fault = fault_of(text);
        EXPECT_EQ(fault.find("here.json: JSON fault at byte "), 0U) << text << " -> " << fault;
        EXPECT_EQ(fault.find('\n'), std::string::npos) << fault;
    }
    EXPECT_NE(fault_of("{\"a\": }").find("byte 7"), std::string::npos) << fault_of("{\"a\": }");
}

TEST(ParseJson, RefusesNestingThatWouldExhaustTheStackButNotBracketsInStrings) {
    const std::string deep(100000, '[');
    EXPECT_NE(fault_of(deep).find("deeper than 512"), std::string::npos);
    std::string mixed;
    for (int i = 0; i < 600; ++i) mixed += "{\"a\":[";
    EXPECT_NE(fault_of(mixed).find("deeper than 512"), std::string::npos);
    const std::string allowed = std::string(512, '[') + std::string(512, ']');
    EXPECT_EQ(fault_of(allowed), "no fault");
    EXPECT_EQ(fault_of("\"" + std::string(5000, '[') + "\""), "no fault");
    EXPECT_EQ(fault_of("\"\\\"" + std::string(5000, '{') + "\\\\\""), "no fault");
    EXPECT_EQ(fault_of("[" + std::string(2000, ' ') + "[1],[2],[3]]"), "no fault");
}

TEST(ParseJson, ANumberBeyondF64IsAFaultOfTheInput) {
    EXPECT_EQ(fault_of("[1e999]").find("here.json: JSON fault"), 0U) << fault_of("[1e999]");
}

class JsonFiles : public ::testing::Test {
protected:
    JsonFiles() {
        std::string name = (fs::temp_directory_path() / "uipe-json-XXXXXX").string();
        require(::mkdtemp(name.data()) != nullptr, "cannot make ", name);
        folder_ = name;
    }
    ~JsonFiles() override { fs::remove_all(folder_); }

    /// The rows of a file with this text, as "place=value", places without the folder.
    std::vector<std::string> rows(const std::string& text) const {
        const fs::path path = folder_ / "rows";
        write_file(path, text);
        std::vector<std::string> found;
        for_each_row(path, [&](const Json& row, const std::string& place) {
            found.push_back(place.substr(folder_.string().size() + 1) + "=" + row.dump());
        });
        return found;
    }

    fs::path folder_;
};

TEST_F(JsonFiles, WriteAndReadAreInverseAndKeepText) {
    const Json json = {{"name", "Zoë"}, {"x", 0.1}, {"rows", {1, 2, 3}}};
    write_json(folder_ / "a.json", json);
    EXPECT_EQ(read_json(folder_ / "a.json"), json);
    const std::string text = read_file(folder_ / "a.json");
    EXPECT_NE(text.find("    \"name\": \"Zoë\""), std::string::npos) << text;
    EXPECT_EQ(text.back(), '\n');
}

TEST_F(JsonFiles, WriteReplacesBytesThatAreNotUtf8) {
    write_json(folder_ / "a.json", Json{{"x", "a\xff"}});
    EXPECT_EQ(read_json(folder_ / "a.json")["x"], "a\xEF\xBF\xBD");
}

TEST_F(JsonFiles, ReadNamesTheFileOfAFault) {
    write_file(folder_ / "bad.json", "{");
    try {
        read_json(folder_ / "bad.json");
        FAIL() << "no fault";
    } catch (const InputError& e) {
        EXPECT_EQ(std::string(e.what()).find((folder_ / "bad.json").string() + ": "), 0U) << e.what();
    }
}

TEST_F(JsonFiles, RowsComeFromAnArrayOrFromLinesWithTheirPlaces) {
    using Rows = std::vector<std::string>;
    EXPECT_EQ(rows(" \n[1, {\"a\":2}]"), (Rows{"rows:[0]=1", "rows:[1]={\"a\":2}"}));
    EXPECT_EQ(rows("{\"a\":1}\n\n  \r\n{\"a\":2}"), (Rows{"rows:line 1={\"a\":1}", "rows:line 4={\"a\":2}"}));
    EXPECT_EQ(rows("{\"a\":1}\r\n{\"a\":2}\r\n"), (Rows{"rows:line 1={\"a\":1}", "rows:line 2={\"a\":2}"}));
    EXPECT_EQ(rows(""), Rows{});
    EXPECT_EQ(rows("[]"), Rows{});
}

TEST_F(JsonFiles, AFaultInALineNamesTheLine) {
    try {
        rows("{}\n{\"a\":\n{}\n");
        FAIL() << "no fault";
    } catch (const InputError& e) {
        EXPECT_NE(std::string(e.what()).find("rows:line 2: JSON fault"), std::string::npos) << e.what();
    }
}

TEST(Errors, AnInputErrorIsAnErrorAndCarriesTheJoinedMessage) {
    EXPECT_EQ(cat("row ", 3, " of ", 2.5), "row 3 of 2.5");
    EXPECT_NO_THROW(require(true, "x"));
    try {
        require_input(false, "a", 1);
        FAIL() << "no error";
    } catch (const Error& e) {
        EXPECT_STREQ(e.what(), "a1");
        EXPECT_NE(dynamic_cast<const InputError*>(&e), nullptr);
    }
    EXPECT_THROW(require(false, "x"), Error);
}

}  // namespace
}  // namespace uipe
