#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "data/scenes/scene_source.h"

namespace pocketvlm {

/// A folder of one test, removed at its end.
class TestFolder {
 public:
  TestFolder() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            (std::string("pocketvlm_scenes_") + info->test_suite_name() + "_" + info->name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// Runs `action` and gives the text of the Error it throws; empty when it throws none.
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline ScenesConfig every_task() {
  ScenesConfig config;
  config.sign_probability = 0.3;
  config.tasks = {{"caption", 1}, {"detailed", 1}, {"vqa", 2},    {"counting", 1}, {"position", 1},
                  {"ocr", 1},     {"yes_no", 2},   {"chat", 1},   {"text", 1},     {"name", 1}};
  return config;
}

}  // namespace pocketvlm
