#include <set>

#include "base/files.h"
#include "data/conversations.h"
#include "data/tar.h"
#include "scene_testing.h"

namespace pocketvlm {
namespace {

std::map<std::string, std::string> files_below(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files[std::filesystem::relative(entry.path(), folder).string()] = read_file(entry.path().string());
    }
  }
  return files;
}

TEST(SceneWriter, WritesTheSameBytesAgain) {
  const TestFolder folder;
  const SceneSource source(every_task(), 6), again(every_task(), 6);
  write_scenes(source, 20, folder.file("a"), true);
  write_scenes(again, 20, folder.file("b"), true);
  const auto first = files_below(folder.file("a"));
  EXPECT_EQ(first, files_below(folder.file("b")));
  EXPECT_TRUE(first.contains("data.json"));
  EXPECT_TRUE(first.contains("truth.jsonl"));
  EXPECT_TRUE(first.contains("shard-00000.tar"));
}

TEST(SceneWriter, FilesReadBackAsTheSamplesOfTheStream) {
  const TestFolder folder;
  const SceneSource source(every_task(), 6);
  constexpr int kCount = 40;
  write_scenes(source, kCount, folder.file("out"), true);
  const ConversationSource conversations(folder.file("out/data.json"));
  const TarSource shard(folder.file("out/shard-00000.tar"));
  ASSERT_EQ(conversations.size(), kCount);
  ASSERT_EQ(shard.size(), kCount);
  const std::string truth_text = read_file(folder.file("out/truth.jsonl"));
  std::size_t line_begin = 0;
  for (int i = 0; i < kCount; ++i) {
    const Sample streamed = source.at(i);
    for (const SampleSource* files : {static_cast<const SampleSource*>(&conversations), static_cast<const SampleSource*>(&shard)}) {
      const Sample read = files->at(i);
      ASSERT_EQ(read.chat.images.size(), streamed.chat.images.size());
      if (!read.chat.images.empty()) {
        EXPECT_EQ(read.chat.images[0].rgb, streamed.chat.images[0].rgb);
      }
      ASSERT_EQ(read.chat.turns.size(), streamed.chat.turns.size());
      for (std::size_t k = 0; k < read.chat.turns.size(); ++k) {
        const std::string mark = k == 0 && !read.chat.images.empty() ? "<image>\n" : "";
        EXPECT_EQ(read.chat.turns[k].role, streamed.chat.turns[k].role);
        EXPECT_EQ(read.chat.turns[k].content, mark + streamed.chat.turns[k].content);
      }
      EXPECT_EQ(read.task, streamed.task);
      EXPECT_EQ(read.language, streamed.language);
    }
    const std::size_t line_end = truth_text.find('\n', line_begin);
    const Json truth = parse_json(truth_text.substr(line_begin, line_end - line_begin), "truth.jsonl");
    line_begin = line_end + 1;
    EXPECT_EQ(truth["id"], fmt::format("{:08}", i));
    for (const char* key : {"objects", "counts", "sign"}) EXPECT_EQ(truth[key], streamed.truth[key]);
  }
  EXPECT_EQ(line_begin, truth_text.size());
}

TEST(SceneWriter, RefusesAnEmptyCountAndAnUnwritableFolder) {
  const TestFolder folder;
  const SceneSource source({}, 1);
  EXPECT_NE(error_of([&] { write_scenes(source, 0, folder.file("x"), false); }).find("count"), std::string::npos);
  write_file_atomic(folder.file("file"), "");
  EXPECT_NE(error_of([&] { write_scenes(source, 1, folder.file("file"), false); }).find("file"), std::string::npos);
}

}  // namespace
}  // namespace pocketvlm
