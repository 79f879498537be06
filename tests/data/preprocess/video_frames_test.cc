#include "data/preprocess/video_frames.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <tuple>

#include "base/error.h"
#include "base/files.h"

namespace pocketvlm {
namespace {

using Frames = std::vector<std::int64_t>;

TEST(VideoFrames, OneASecond) {
  EXPECT_EQ(video_frames(5, 1), (Frames{0, 1, 2, 3, 4}));
  EXPECT_EQ(video_frames(100, 29.97), (Frames{0, 30, 60, 90}));
  EXPECT_EQ(video_frames(10, 2.5), (Frames{0, 2, 4, 6, 8}));  // halves to the even number
  EXPECT_EQ(video_frames(3, 0.2), (Frames{0, 1, 2}));
  EXPECT_EQ(video_frames(1, 60), (Frames{0}));
}

/// Python: gap = len(l) / n; [l[int(i * gap + gap / 2)] for i in range(n)]
TEST(VideoFrames, OfALongVideoTheMiddlesOfEqualStretches) {
  EXPECT_EQ(video_frames(10, 1, 4), (Frames{1, 3, 6, 8}));
  EXPECT_EQ(video_frames(30 * 7, 30, 3), (Frames{30, 90, 150}));
  const Frames many = video_frames(25 * 3600, 25);
  ASSERT_EQ(many.size(), 64U);
  EXPECT_EQ(many.front(), 25 * 28);
  EXPECT_EQ(many.back(), 25 * 3571);
}

TEST(VideoFrames, SettingsWithoutImageIdsAndWithTwoTilesAtMost) {
  PromptConfig prompt;
  prompt.use_image_id = true;
  for (const auto& [mode, before, after] :
       {std::tuple("slices", 9, 2), std::tuple("slices", 1, 1), std::tuple("squash", 9, 9)}) {
    ImageConfig image;
    image.mode = mode;
    image.max_slices = before;
    set_for_video(prompt, image);
    EXPECT_EQ(image.max_slices, after) << mode;
    EXPECT_FALSE(prompt.use_image_id);
  }
}

TEST(VideoFrames, FilesInTheOrderOfTheirNames) {
  namespace fs = std::filesystem;
  const std::string folder = testing::TempDir() + "/video_frames";
  fs::remove_all(folder);
  make_folders(folder);
  const auto error = [&](const std::string& path, double rate) {
    try {
      video_frame_files(path, rate);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(error(folder, 1).find("holds no pictures"), std::string::npos);
  EXPECT_NE(error(folder + "/none", 1).find("no such folder"), std::string::npos);
  for (const char* name : {"3.jpg", "1.PNG", "2.jpeg", "0.webp", "notes.txt"}) write_file_atomic(folder + "/" + name, "x");
  EXPECT_EQ(video_frame_files(folder, 2), (std::vector<std::string>{folder + "/0.webp", folder + "/2.jpeg"}));
  EXPECT_NE(error(folder, 0).find("0 frames a second; it must be more than 0"), std::string::npos);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace pocketvlm
