#include "apps/mobile_options.h"

#include <filesystem>

#include "base/error.h"
#include "data/preprocess/video_frames.h"
#include "mobile/tuning.h"

namespace pocketvlm {

void add_language_options(CLI::App& command, ModelOptions& options) {
  command.add_option("--model", options.model, "language GGUF file")->required();
  command
      .add_option("--threads", options.session.threads, "0: one for each core this process may use")
      ->check(CLI::Range(0, 1024));
  command
      .add_option("--affinity", options.session.affinity, "any; fastest: threads stay on the fastest cores, as many as there are threads")
      ->check(CLI::IsMember({"any", "fastest"}));
  command.add_option("--kernels",
                     options.session.kernels,
                     "auto: the fastest this processor has; scalar, avx2, ...");
  command.add_option("--kv-cache", options.session.kv_cache, "auto, f32, f16 or q8_0");
  command
      .add_option("--packed",
                  options.session.packed,
                  "weights in the order kernels read them: file (beside the model, made on first "
                  "use), memory, none")
      ->check(CLI::IsMember({"file", "memory", "none"}));
  command.add_option("--packed-folder", options.session.packed_folder, "of these files, where the model's cannot be written to");
}

void add_model_options(CLI::App& command, ModelOptions& options) {
  add_language_options(command, options);
  command.add_option("--mmproj", options.mmproj, "vision GGUF file");
  command
      .add_option("--vision",
                  options.session.vision,
                  "float; bf16 (with AMX) or int8: faster where the kernels can, answers differ a little")
      ->check(CLI::IsMember({"float", "bf16", "int8"}));
  command
      .add_option("--resident",
                  options.session.resident,
                  "sequential: vision weights leave memory before the decoder is run; both: they "
                  "stay, for many pictures in a row")
      ->check(CLI::IsMember({"sequential", "both"}));
  command
      .add_option("--context",
                  options.session.context,
                  "tokens the cache can hold; 0: the model's, at most 4096")
      ->check(CLI::NonNegativeNumber);
}

void add_tuning_option(CLI::App& command, ModelOptions& options) {
  command.add_option(
      "--tuning", options.tuning, "file that `tune` wrote; auto: the one beside the model; none");
}

void add_picture_options(CLI::App& command, PictureOptions& pictures) {
  command.add_option("--image", pictures.images, "picture for the (first) message; may be repeated");
  command.add_option("--video",
                     pictures.video,
                     "instead: folder with one picture a frame, or the pictures; one a second is "
                     "read, at most 64, in two slices each");
  command.add_option("--video-fps", pictures.video_fps, "frames a second of --video")
      ->check(CLI::Range(0.001, 1000.0));
}

void check_pictures(const PictureOptions& pictures, const ModelOptions& model) {
  PV_CHECK(pictures.images.empty() || pictures.video.empty(),
           "--video and --image cannot be given together; a video's pictures are its frames");
  PV_CHECK(pictures.empty() || !model.mmproj.empty(),
           "--{} needs the vision file: add --mmproj FILE",
           pictures.video.empty() ? "image" : "video");
}

PromptEncoder encoder_for(const PictureOptions& pictures, const Session& session) {
  return pictures.video.empty() ? session.encoder() : encoder_for_video(session.encoder());
}

std::vector<std::string> picture_files(const PictureOptions& pictures) {
  if (pictures.video.empty()) return pictures.images;
  if (pictures.video.size() == 1 && std::filesystem::is_directory(pictures.video.front()))
    return video_frame_files(pictures.video.front(), pictures.video_fps);
  std::vector<std::string> files;
  for (const std::int64_t frame : video_frames(std::ssize(pictures.video), pictures.video_fps))
    files.push_back(pictures.video[static_cast<std::size_t>(frame)]);
  return files;
}

void add_sampling_options(CLI::App& command, MobileSampling& sampling) {
  auto* greedy = command.add_flag_callback(
      "--greedy", [] {}, "always the most probable token (the default)");
  command.add_option("--temperature", sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->excludes(greedy);
  command.add_option("--top-p", sampling.top_p, "nucleus")->check(CLI::Range(0.0, 1.0));
  command.add_option("--top-k", sampling.top_k, "0: off")->check(CLI::NonNegativeNumber);
  command
      .add_option("--min-p", sampling.min_p, "drop tokens below this times the largest probability")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "1: off")
      ->check(CLI::Range(0.01, 100.0));
  command.add_option("--max-new-tokens", sampling.max_new_tokens, "length of an answer at most")
      ->check(CLI::Range(1, 1 << 20));
  command.add_option("--seed", sampling.seed, "of the random choices");
}

void add_json_option(CLI::App& command, bool& json) {
  command.add_flag("--json", json, "one JSON object on standard output");
}

std::string use_tuning(ModelOptions& options) {
  return use_tuning_file(options.tuning, options.model, options.session);
}

std::vector<Image> load_images(const std::vector<std::string>& paths, const ImageConfig& config) {
  const DecodeOptions decode = decode_options(config);
  std::vector<Image> images;
  for (const std::string& path : paths) images.push_back(load_image(path, decode));
  return images;
}

}  // namespace pocketvlm
