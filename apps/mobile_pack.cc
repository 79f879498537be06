#include <cstdio>
#include <filesystem>
#include <memory>

#include "apps/mobile_commands.h"
#include "apps/mobile_options.h"
#include "apps/mobile_output.h"
#include "base/error.h"

namespace pocketvlm {
namespace {

struct PackCommand {
  ModelOptions model;
  bool json = false;
};

// A session that keeps packed weights in files makes them; later ones, here or where the pairs are
// copied to, map them.
void run_pack(PackCommand& command) {
  SessionOptions& options = command.model.session;
  options.packed = "file";
  if (!command.model.mmproj.empty()) options.vision = "int8";
  const Session session(command.model.model, command.model.mmproj, options);
  const std::vector<std::string> files = session.packed_files();
  const std::size_t wanted = command.model.mmproj.empty() ? 1 : 2;
  PV_CHECK(files.size() == wanted,
           "{}: {} of {} files of packed weights could be made; the kernels \"{}\" may read the model's file "
           "as it is, or the folder cannot be written to (--packed-folder)",
           command.model.model,
           files.size(),
           wanted,
           session.kernels());
  Json made = Json::array();
  for (const std::string& file : files) {
    made.push_back({{"file", file}, {"bytes", std::filesystem::file_size(file)}});
    if (!command.json) std::printf("%s\n", file.c_str());
  }
  if (command.json) print_json({{"packed", made}, {"kernels", session.kernels()}});
}

}  // namespace

void add_pack_command(CLI::App& app) {
  CLI::App* pack = app.add_subcommand(
      "pack", "make the files of packed weights ahead, to be copied to a device beside the model's");
  auto command = std::make_shared<PackCommand>();
  pack->add_option("--model", command->model.model, "language GGUF file")->required();
  pack->add_option("--mmproj", command->model.mmproj, "vision GGUF file, for --vision int8");
  pack->add_option("--kernels", command->model.session.kernels, "auto: the fastest this processor has");
  pack->add_option("--packed-folder", command->model.session.packed_folder, "where to; default: beside the models");
  add_json_option(*pack, command->json);
  pack->callback([command] { run_pack(*command); });
}

}  // namespace pocketvlm
