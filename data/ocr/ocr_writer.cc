#include "data/ocr/ocr_writer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/random.h"
#include "data/ocr/ocr_questions.h"
#include "data/output_file.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostListed = 1000;

struct WrittenPicture {
  std::string record, truth;  // lines of JSON
  std::string jpeg;
};

std::string key_of(std::int64_t index) { return fmt::format("{:08}", index); }

double tenth(double value) { return std::round(value * 10) / 10; }

WrittenPicture make_picture(const OcrPainter& painter, std::uint64_t seed, std::int64_t index, bool as_tar) {
  const OcrPicture picture = painter.draw(index);
  const std::string key = key_of(index);
  const std::string name = as_tar ? key + ".jpg" : "images/" + key + ".jpg";
  std::string text;
  Json lines = Json::array();
  for (const PaintedLine& line : picture.lines) {
    text += (text.empty() ? "" : "\n") + line.text;
    Json quad = Json::array();
    for (const Point& corner : line.quad) quad.push_back({tenth(corner[0]), tenth(corner[1])});
    lines.push_back({{"text", line.text}, {"quad", quad}, {"font", line.font}, {"font_pixels", line.font_pixels}});
  }
  const Json record = {{"id", key},
                       {"image", name},
                       {"conversations",
                        Json::array({{{"from", "human"}, {"value", "<image>\n" + reading_question(seed, index)}},
                                     {{"from", "gpt"}, {"value", text}}})},
                       {"task", "ocr"}};
  const Json truth = {{"id", key}, {"image", name}, {"size", {picture.image.width, picture.image.height}}, {"lines", lines}};
  return {record.dump(), truth.dump(), encode_jpeg(picture.image, picture.jpeg_quality)};
}

/// Pictures [begin, end), made by several threads; nothing depends on how many.
std::vector<WrittenPicture> make_pictures(const OcrPainter& painter, std::uint64_t seed, std::int64_t begin, std::int64_t end, const OcrOutput& output) {
  std::vector<WrittenPicture> pictures(static_cast<std::size_t>(end - begin));
  std::atomic<std::int64_t> next = begin;
  std::exception_ptr problem;
  std::mutex mutex;
  const auto work = [&] {
    try {
      for (std::int64_t index = next++; index < end; index = next++) {
        pictures[static_cast<std::size_t>(index - begin)] = make_picture(painter, seed, index, output.as_tar);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      problem = std::current_exception();
      next = end;
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < output.threads; ++i) helpers.emplace_back(work);
    work();
  }
  if (problem) std::rethrow_exception(problem);
  return pictures;
}

std::string hash_of(std::string_view text) {
  std::uint64_t hash = text.size();
  for (const char c : text) hash = mix_keys({hash, static_cast<unsigned char>(c)});
  return fmt::format("{:016x}", hash);
}

/// What the bytes of the folder are a function of.
Json identity_of(const OcrPainter& painter, std::uint64_t seed, const OcrOutput& output) {
  std::string fonts;
  for (const FontFace& face : painter.fonts().faces()) fonts += fmt::format("{}:{}:{}\n", face.path, face.index, face.name);
  return {{"seed", seed},
          {"count", output.count},
          {"tar", output.as_tar},
          {"shard_size", output.shard_size},
          {"text_hash", hash_of(text_of(painter.config()))},
          {"fonts_hash", hash_of(fonts)},
          {"config", config_to_json(painter.config())}};
}

/// Throws Error when the folder was begun with other settings.
void check_identity(const Json& wanted, const std::string& path) {
  const Json found = read_json(path);
  for (const auto& [key, value] : wanted.items()) {
    const Json begun = found.is_object() ? found.value(key, Json()) : Json();
    PV_CHECK(begun == value,
             "{}: the folder was begun with {} = {}, now it is {}; choose another --out, or the same settings",
             path,
             key,
             begun.dump(),
             value.dump());
  }
}

/// An append-only file of lines.
class LineFile {
 public:
  /// Looks how many whole lines the file has; one that is torn does not count.
  explicit LineFile(std::string path) : path_(std::move(path)) {
    std::ifstream stream(path_, std::ios::binary);
    std::string line;
    while (std::getline(stream, line) && !stream.eof()) ++lines_;
  }
  std::int64_t lines() const { return lines_; }
  /// Keeps the first lines and cuts the file behind them.
  void keep(std::int64_t count) {
    if (!fs::exists(path_)) return;
    std::uintmax_t bytes = 0;
    {
      std::ifstream stream(path_, std::ios::binary);
      std::string line;
      for (std::int64_t i = 0; i < count && std::getline(stream, line); ++i) bytes += line.size() + 1;
    }
    fs::resize_file(path_, bytes);
  }
  void append(std::string_view text) {
    std::ofstream stream(path_, std::ios::binary | std::ios::app);
    stream.write(text.data(), static_cast<std::streamsize>(text.size()));
    stream.flush();
    PV_CHECK(stream.good(), "{}: cannot be written; is the disk full?", path_);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::int64_t lines_ = 0;
};

void write_shard(const std::vector<WrittenPicture>& pictures, std::int64_t begin, const OcrOutput& output) {
  OutputFile shard(fmt::format("{}/shard-{:05}.tar", output.folder, begin / output.shard_size));
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const std::string key = key_of(begin + static_cast<std::int64_t>(i));
    shard.write(tar_member(key + ".json", pictures[i].record));
    shard.write(tar_member(key + ".jpg", pictures[i].jpeg));
  }
  shard.write(end_of_tar());
  shard.finish();
}

void write_files(const std::vector<WrittenPicture>& pictures, std::int64_t begin, const std::string& folder) {
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    OutputFile picture(folder + "/images/" + key_of(begin + static_cast<std::int64_t>(i)) + ".jpg");
    picture.write(pictures[i].jpeg);
    picture.finish();
  }
}

/// The records as one list.
void write_list(const std::string& lines_path, const std::string& path) {
  std::ifstream lines(lines_path, std::ios::binary);
  OutputFile data(path);
  data.write("[");
  std::string line;
  for (bool first = true; std::getline(lines, line); first = false) data.write((first ? "\n" : ",\n") + line);
  data.write("\n]\n");
  data.finish();
}

}  // namespace

Json unused_lines_json(const TextLines& text) {
  std::map<std::string, std::int64_t> reasons;
  Json listed = Json::array();
  for (const UnusedLine& line : text.unused) {
    ++reasons[line.reason];
    if (listed.size() < kMostListed) listed.push_back({{"line", line.source_line}, {"reason", line.reason}, {"detail", line.detail}});
  }
  return {{"drawn", text.lines.size()}, {"left_out", text.unused.size()}, {"reasons", Json(reasons)}, {"listed", listed}};
}

void write_ocr(const OcrPainter& painter, std::uint64_t seed, const OcrOutput& output) {
  PV_CHECK(output.count > 0, "data ocr: a count of {} writes nothing; ask for 1 or more", output.count);
  make_folders(output.as_tar ? output.folder : output.folder + "/images");
  const std::string settings = output.folder + "/ocr.json", truth_path = output.folder + "/truth.jsonl";
  const std::string records_path = output.folder + "/records.part";
  const Json identity = identity_of(painter, seed, output);
  if (fs::exists(settings)) {
    check_identity(identity, settings);
    if (fs::exists(truth_path)) {  // it comes last: everything is there
      fs::remove(records_path);
      return;
    }
  } else {
    Json json = identity;
    json["lines"] = unused_lines_json(painter.text());
    write_file_atomic(settings, json.dump(2) + "\n");
  }
  LineFile records(records_path), truth(truth_path + ".part");
  // Whole shards alone are kept: lines are written behind the pictures that they tell of.
  const std::int64_t lines = output.as_tar ? truth.lines() : std::min(truth.lines(), records.lines());
  const std::int64_t done = std::min(output.count, lines) / output.shard_size * output.shard_size;
  truth.keep(done);
  records.keep(done);

  Progress progress("ocr", output.count, done);
  for (std::int64_t begin = done; begin < output.count; begin += output.shard_size) {
    const std::int64_t end = std::min(output.count, begin + output.shard_size);
    const std::vector<WrittenPicture> pictures = make_pictures(painter, seed, begin, end, output);
    output.as_tar ? write_shard(pictures, begin, output) : write_files(pictures, begin, output.folder);
    std::string record_text, truth_text;
    for (const WrittenPicture& picture : pictures) {
      record_text += picture.record + "\n";
      truth_text += picture.truth + "\n";
    }
    if (!output.as_tar) records.append(record_text);
    truth.append(truth_text);
    progress.update(end);
  }
  progress.finish();
  if (!output.as_tar) write_list(records_path, output.folder + "/data.json");
  fs::rename(truth.path(), truth_path);
  fs::remove(records_path);
}

}  // namespace pocketvlm
