#include <cstring>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/safetensors.h"

namespace pocketvlm {
namespace {

struct ForwardOptions {
  ModelOptions model;
  std::string prompt;
  std::string system;
  PictureOptions pictures;
  std::string out;
  bool json = false;
};

template <typename Values>
TensorToWrite tensor(const std::string& name,
                     const std::string& dtype,
                     std::vector<std::int64_t> shape,
                     const Values& values) {
  return {name, dtype, std::move(shape), [&values] { return std::as_bytes(std::span(values)); }};
}

void run_forward(ForwardOptions& options) {
  check_pictures(options.pictures, options.model);
  Session session(options.model.model, options.model.mmproj, options.model.session);
  Chat chat;
  if (!options.system.empty()) chat.turns.push_back({"system", options.system});
  chat.turns.push_back({"user", options.prompt});
  const PromptEncoder encoder = encoder_for(options.pictures, session);
  chat.images = load_images(picture_files(options.pictures), encoder.image());
  const EncodedChat prompt = encoder.encode(chat, true);

  std::vector<std::int32_t> grids;
  for (const auto& [rows, columns] : prompt.grids) {
    grids.push_back(rows);
    grids.push_back(columns);
  }
  std::vector<float> visual;
  if (!prompt.grids.empty()) visual = session.encode_image(prompt);
  const std::vector<float> logits = session.forward_logits(prompt, visual);

  const auto slices = static_cast<std::int64_t>(prompt.grids.size());
  const auto tokens = static_cast<std::int64_t>(prompt.ids.size());
  std::vector<TensorToWrite> tensors = {
      tensor("input_ids", "I32", {tokens}, prompt.ids),
      tensor("logits", "F32", {tokens, session.language().vocab}, logits)};
  if (slices > 0) {
    const ImageConfig& image = session.encoder().image();
    const std::int64_t patch = 3 * image.patch_size * image.patch_size;
    const std::int64_t hidden = session.language().hidden;
    const auto values = static_cast<std::int64_t>(visual.size());
    tensors.push_back(tensor("visual_positions",
                             "I32",
                             {static_cast<std::int64_t>(prompt.visual_positions.size())},
                             prompt.visual_positions));
    tensors.push_back(tensor("grids", "I32", {slices, 2}, grids));
    tensors.push_back(tensor("patches",
                             "F32",
                             {static_cast<std::int64_t>(prompt.patches.size()) / patch, patch},
                             prompt.patches));
    tensors.push_back(
        tensor("projector", "F32", {slices, values / hidden / slices, hidden}, visual));
  }
  write_safetensors(options.out, tensors);
  if (options.json) {
    print_json({{"out", options.out}, {"tokens", tokens}, {"slices", slices}});
  } else {
    std::printf("%s: %lld tokens, %lld slices\n",
                options.out.c_str(),
                static_cast<long long>(tokens),
                static_cast<long long>(slices));
  }
}

}  // namespace

void add_forward_command(CLI::App& app) {
  CLI::App* forward = app.add_subcommand(
      "forward", "write what a prompt becomes on the way: ids, patches, visual tokens, logits");
  auto options = std::make_shared<ForwardOptions>();
  add_model_options(*forward, options->model);
  add_json_option(*forward, options->json);
  add_picture_options(*forward, options->pictures);
  forward->add_option("--prompt", options->prompt, "the message")->required();
  forward->add_option("--system", options->system, "system message");
  forward->add_option("--out", options->out, "safetensors file")->required();
  forward->callback([options] { run_forward(*options); });
}

}  // namespace pocketvlm
