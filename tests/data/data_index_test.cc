#include "data/data_index.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <sstream>

#include "base/log.h"
#include "data/packed_loader.h"
#include "data/record_file.h"
#include "data/tar.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;
using test::make_tar;
using test::TestFolder;

constexpr IndexOptions kKept{true, true, "", 0};

/// What is logged while one lives goes here alone.
class Log {
 public:
  Log() : before_(spdlog::default_logger()->sinks()) {
    spdlog::default_logger()->sinks() = {std::make_shared<spdlog::sinks::ostream_sink_mt>(text_)};
  }
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  ~Log() { spdlog::default_logger()->sinks() = before_; }
  int lines_with(const std::string& part) const {
    int count = 0;
    std::istringstream lines(text_.str());
    for (std::string line; std::getline(lines, line);) count += line.find(part) != std::string::npos ? 1 : 0;
    return count;
  }
  int lines() const { return lines_with(""); }

 private:
  std::ostringstream text_;
  std::vector<spdlog::sink_ptr> before_;
};

/// Opens a table that is the data turned round; `made` says whether they were read for it.
std::string open(const std::string& path, const IndexOptions& options, bool& made, const std::string& kind = "test") {
  const MappedFile data(path);
  made = false;
  const DataIndex index(data, kind, options, [&] {
    made = true;
    const auto* bytes = reinterpret_cast<const char*>(data.data());
    return std::string(std::reverse_iterator(bytes + data.size()), std::reverse_iterator(bytes));
  });
  EXPECT_EQ(index.was_found(), !made);
  return {reinterpret_cast<const char*>(index.table().data()), index.table().size()};
}

std::string read(const std::string& path) { return read_file(path); }

TEST(DataIndex, IsMadeOnceAndFoundAfterwards) {
  const TestFolder folder;
  const std::string path = folder.write("a.jsonl", "abc"), kept = folder.path(".a.jsonl.test.index");
  bool made = false;
  const Log log;
  EXPECT_EQ(open(path, kKept, made), "cba");
  EXPECT_TRUE(made);
  EXPECT_TRUE(fs::exists(kept));
  const auto written = fs::last_write_time(kept);
  EXPECT_EQ(open(path, kKept, made), "cba");
  EXPECT_FALSE(made);
  EXPECT_EQ(fs::last_write_time(kept), written);
  EXPECT_EQ(open(path, kKept, made, "other"), "cba");
  EXPECT_TRUE(made) << "a table of another kind is none";
  EXPECT_EQ(log.lines(), 0);
}

TEST(DataIndex, IsMadeAgainWithOneLineWhenTheDataChanged) {
  const TestFolder folder;
  bool made = false;
  std::string text(300'000, 'a');
  const std::string path = folder.write("a.jsonl", text);
  open(path, kKept, made);
  const auto then = fs::last_write_time(path);
  const auto expect_again = [&](const char* what) {
    const Log log;
    EXPECT_EQ(open(path, kKept, made), std::string(text.rbegin(), text.rend())) << what;
    EXPECT_TRUE(made) << what;
    EXPECT_EQ(log.lines_with("it has changed since its index was made"), 1) << what;
    EXPECT_EQ(log.lines(), 1) << what;
    open(path, kKept, made);
    EXPECT_FALSE(made) << what;
  };
  text += 'b';
  folder.write("a.jsonl", text);
  fs::last_write_time(path, then);
  expect_again("longer");
  fs::last_write_time(path, then + std::chrono::nanoseconds(1000));
  expect_again("written later");
  for (const std::size_t at : {std::size_t{0}, text.size() / 15 * 7, text.size() - 1}) {
    text[at] = 'x';
    folder.write("a.jsonl", text);
    fs::last_write_time(path, then + std::chrono::nanoseconds(1000));
    expect_again("of the same size and time");
  }
}

TEST(DataIndex, NoDamageOfItIsUsed) {
  const TestFolder folder;
  bool made = false;
  const std::string path = folder.write("a.jsonl", "some words of data"), kept = folder.path(".a.jsonl.test.index");
  const std::string expected = open(path, kKept, made), good = read(kept);
  const auto expect_again = [&](const std::string& bytes, const std::string& what) {
    folder.write(".a.jsonl.test.index", bytes);
    const Log log;
    EXPECT_EQ(open(path, kKept, made), expected) << what;
    EXPECT_TRUE(made) << what;
    EXPECT_EQ(log.lines(), 1) << what;
    EXPECT_EQ(read(kept), good) << what;
  };
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x10);
    expect_again(bytes, fmt::format("byte {}", i));
    expect_again(good.substr(0, i), fmt::format("cut to {} bytes", i));
  }
  expect_again(good + "x", "longer");
  fs::remove(kept);
  fs::create_directory(kept);  // what cannot be read or replaced is done without
  const Log log;
  EXPECT_EQ(open(path, kKept, made), expected);
  EXPECT_TRUE(made);
  EXPECT_EQ(log.lines_with("its index cannot be read"), 1);
  EXPECT_EQ(log.lines(), 1);
}

TEST(DataIndex, GoesToTheFolderThatIsNamed) {
  const TestFolder folder;
  bool made = false;
  const std::string one = folder.write("one/a.jsonl", "abc"), two = folder.write("two/a.jsonl", "xyz");
  const IndexOptions elsewhere{true, true, folder.path("indexes/deep"), 0};
  EXPECT_EQ(open(one, elsewhere, made), "cba");
  EXPECT_EQ(open(two, elsewhere, made), "zyx");
  EXPECT_EQ(open(one, elsewhere, made), "cba");
  EXPECT_FALSE(made) << "files of one name keep theirs apart";
  EXPECT_FALSE(fs::exists(folder.path("one/.a.jsonl.test.index")));
}

TEST(DataIndex, IsDoneWithoutWhereItCannotBeWritten) {
  const TestFolder folder;
  bool made = false;
  const std::string path = folder.write("a.jsonl", "abc");
  folder.write("file", "no folder");
  const Log log;
  EXPECT_EQ(open(path, {true, true, folder.path("file/in"), 0}, made), "cba");
  EXPECT_TRUE(made);
  EXPECT_EQ(log.lines_with("its index cannot be kept"), 1);
  EXPECT_EQ(log.lines_with("data.index_folder"), 1);
}

TEST(DataIndex, IsNotKeptOfSmallFilesByOtherRanksOrUnasked) {
  const TestFolder folder;
  bool made = false;
  const std::string path = folder.write("a.jsonl", "abc"), kept = folder.path(".a.jsonl.test.index");
  for (const IndexOptions& options : {IndexOptions{}, IndexOptions{true, true, "", 4}, IndexOptions{true, false, "", 0}}) {
    EXPECT_EQ(open(path, options, made), "cba");
    EXPECT_TRUE(made);
    EXPECT_FALSE(fs::exists(kept));
  }
  open(path, {true, true, "", 3}, made);
  EXPECT_TRUE(fs::exists(kept));
  EXPECT_EQ(open(path, {true, false, "", 0}, made), "cba");
  EXPECT_FALSE(made) << "others use what rank 0 left";
}

TEST(DataIndex, ProcessesThatStartTogetherSeeNoneOrAWholeOne) {
  const TestFolder folder;
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += fmt::format("{}\n", i);
  const std::string path = folder.write("a.txt", text);
  std::vector<pid_t> started;
  for (int process = 0; process < 8; ++process) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      bool good = true;
      for (int i = 0; i < 20 && good; ++i) {
        const RecordFile file(path, RecordFile::Form::kLines, kKept);
        good = file.size() == 20'000 && file.record(12'345) == "12345";
        if (i % 5 == process % 5) fs::remove(folder.path(".a.txt.lines.index"));
      }
      std::_Exit(good ? 0 : 1);
    }
    started.push_back(pid);
  }
  for (const pid_t pid : started) {
    int status = -1;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

TEST(DataIndex, HoldsTheSameRecordsAndShards) {
  const TestFolder folder;
  const std::string list = folder.write("a.json", "\xef\xbb\xbf[{\"a\": 1},\n [2],\n\n 3]"), lines = folder.write("a.jsonl", "{}\n\n[1]\r\n2\n");
  for (int round = 0; round < 2; ++round) {
    const RecordFile a(list, RecordFile::Form::kJsonList, kKept), b(lines, RecordFile::Form::kLines, kKept);
    ASSERT_EQ(a.size(), 3);
    EXPECT_EQ(a.record(1), "[2]");
    EXPECT_EQ(a.place(2), "[2], line 4");
    ASSERT_EQ(b.size(), 3);
    EXPECT_EQ(b.record(1), "[1]");
    EXPECT_EQ(b.place(1), "line 3");
  }
  const std::string chat = R"("conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}])";
  const std::string png = encode_png(test::test_picture(6, 7));
  const std::string shard = folder.write("shard.tar",
                                         make_tar({{"./a/2.json", "{" + chat + "}", '0', "", ""},
                                                   {"a/1.json", R"({"image": "x/1.b.png", )" + chat + "}", '0', "", ""},
                                                   {"a/2.png", png, '0', "", ""},
                                                   {"a/1.a.png", png, '0', "", ""},
                                                   {"notes.txt", "none", '0', "", ""},
                                                   {"a/x/1.b.png", png, '0', "", ""},
                                                   {"b.json", "{}", '0', "", ""},
                                                   {"b.json", "{}", '0', "", ""}},
                                                  /*with_end=*/false));
  const TarSource plain(shard);
  for (int round = 0; round < 2; ++round) {
    const Log log;
    const TarSource kept(shard, {}, kKept);
    EXPECT_EQ(log.lines_with("no end mark"), 1) << "said at every start";
    ASSERT_EQ(kept.size(), plain.size());
    for (std::int64_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(kept.place(i), plain.place(i));
      const std::string error = test::error_of([&] { plain.at(i); });
      EXPECT_EQ(test::error_of([&] { kept.at(i); }), error);
      if (!error.empty()) continue;
      EXPECT_EQ(kept.at(i).id, plain.at(i).id);
      ASSERT_EQ(kept.at(i).chat.images.size(), 1U);
      EXPECT_EQ(kept.at(i).chat.images[0].rgb, plain.at(i).chat.images.at(0).rgb);
    }
  }
  EXPECT_EQ(plain.size(), 4) << "a/2, a/1, a/x/1.b without a record, b twice";
  EXPECT_TRUE(fs::exists(folder.path(".shard.tar.tar.index")));
}

TEST(DataIndex, OfTarsWithoutAWholeTableIsAnError) {
  const std::string table = TarTable::make({{{"a.json", 512, 2}, {"a.png", 1536, 9}}, true});
  const auto view = [](const std::string& bytes) { TarTable(std::as_bytes(std::span(bytes)), "shard.tar"); };
  view(table);
  for (std::size_t i = 0; i < table.size(); ++i) {
    EXPECT_EQ(test::error_of([&] { view(table.substr(0, i)); }), "shard.tar: the table of its members is not whole; remove its index");
  }
}

TEST(DataIndex, PlacesBeyondTheDataAreErrors) {
  const TestFolder folder;
  const std::string lines = folder.write("a.jsonl", "{}\n"), shard = folder.write("a.tar", make_tar({{"a.json", "{}", '0', "", ""}}));
  const RecordFile::Record beyond = {3, 1, 1};
  const DataIndex of_lines(MappedFile(lines), "lines", kKept, [&] { return std::string(reinterpret_cast<const char*>(&beyond), sizeof(beyond)); });
  const RecordFile file(lines, RecordFile::Form::kLines, kKept);
  EXPECT_EQ(test::error_of([&] { file.record(0); }), lines + ": record 0 lies beyond its end; remove its index");
  const DataIndex of_shard(MappedFile(shard), "tar", kKept, [] { return TarTable::make({{{"a.json", 1 << 20, 2}}, true}); });
  const TarSource source(shard, {}, kKept);
  EXPECT_EQ(test::error_of([&] { source.at(0); }), shard + ": a.json lies beyond its end; remove its index");
}

TEST(DataIndex, GivesALoaderTheSamePacks) {
  const TestFolder folder;
  for (const char* name : {"1.jsonl", "2.jsonl"}) {
    std::string lines;
    for (int i = 0; i < 300; ++i) lines += Json{{"id", fmt::format("{}-{}", name, i)}, {"text", std::string(static_cast<std::size_t>(3 + i % 40), 'x')}}.dump() + "\n";
    folder.write(name, lines);
  }
  LoaderConfig config;
  config.sources.resize(1);
  config.sources[0].kind = "text";
  config.sources[0].path = folder.path("*.jsonl*");  // would match an index that does not hide
  config.batch_tokens = config.max_tokens = 256;
  const Tokenizer tokenizer = test::byte_tokenizer();
  const PromptEncoder encoder(tokenizer, test::small_prompt(), test::small_images());
  const auto first_packs = [&] {
    PackedLoader loader(config, encoder);
    std::vector<std::vector<std::string>> packs;
    for (int i = 0; i < 30; ++i) packs.push_back(loader.next().sample_ids);
    return packs;
  };
  const auto expected = first_packs();
  EXPECT_FALSE(fs::exists(folder.path(".1.jsonl.lines.index"))) << "small files have none";
  config.index_min_mb = 0;
  EXPECT_EQ(first_packs(), expected);
  EXPECT_TRUE(fs::exists(folder.path(".1.jsonl.lines.index")));
  EXPECT_TRUE(fs::exists(folder.path(".2.jsonl.lines.index")));
  EXPECT_EQ(first_packs(), expected);
}

}  // namespace
}  // namespace pocketvlm
