#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "mobile/session.h"

namespace pocketvlm {

/// What every command of pocketvlm-mobile that runs a model is told about it.
struct ModelOptions {
  std::string model;
  std::string mmproj;           // empty: text only
  std::string tuning = "auto";  // auto: the file beside the model, if there is one | none | file
  SessionOptions session;
};

/// Adds --model, --threads, --kernels, --kv-cache and --packed.
void add_language_options(CLI::App& command, ModelOptions& options);

/// Adds these and --mmproj, --vision, --resident and --context.
void add_model_options(CLI::App& command, ModelOptions& options);

/// Adds --tuning, for commands that call use_tuning().
void add_tuning_option(CLI::App& command, ModelOptions& options);

/// Pictures of a message: picture files, or the frames of a video.
struct PictureOptions {
  std::vector<std::string> images;
  std::vector<std::string> video;  // a folder with one picture a frame, or these pictures
  double video_fps = 30.0;

  bool empty() const { return images.empty() && video.empty(); }
};

/// Adds --image, --video and --video-fps.
void add_picture_options(CLI::App& command, PictureOptions& pictures);

/// Throws Error when pictures and video are both given, or either without a vision file.
void check_pictures(const PictureOptions& pictures, const ModelOptions& model);

/// The encoder for prompts with these pictures: the session's own settings, those of videos where one
/// is given. The session must outlive it.
PromptEncoder encoder_for(const PictureOptions& pictures, const Session& session);

/// The files to read: of a video one frame a second, at most 64. Throws Error.
std::vector<std::string> picture_files(const PictureOptions& pictures);

/// Adds --greedy, --temperature, --top-p, --top-k, --min-p, --repetition-penalty, --max-new-tokens
/// and --seed.
void add_sampling_options(CLI::App& command, MobileSampling& sampling);

/// Adds --json.
void add_json_option(CLI::App& command, bool& json);

/// use_tuning_file() (mobile/tuning.h) with what --tuning says.
std::string use_tuning(ModelOptions& options);

/// Decodes picture files as the model wants them. Throws Error naming the file.
std::vector<Image> load_images(const std::vector<std::string>& paths, const ImageConfig& config);

}  // namespace pocketvlm
