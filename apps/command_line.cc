#include "apps/command_line.h"

#include <CLI/CLI.hpp>
#include <cstdlib>

namespace pocketvlm {
namespace {

/// The command that was given, as "inspect image".
std::string chosen_command(const CLI::App& app) {
  std::string name;
  for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
    at = at->get_subcommands().front();
    name += (name.empty() ? "" : " ") + at->get_name();
  }
  return name;
}

void add_json(CLI::App* command, CommandLine& line) {
  command->add_flag("--json", line.json, "print one JSON object on standard output");
}

void add_video(CLI::App* command, CommandLine& line) {
  command->add_option("--video", line.video, "folder with one picture a frame: one a second is read, at most 64, as MiniCPM-V 2.6 does");
  command->add_option("--video-fps", line.video_fps, "frames a second of --video")->check(CLI::Range(0.001, 1000.0));
}

void add_plan_options(CLI::App* train, CommandLine& line) {
  auto* plan = train->add_option_group("plan", "what the stage would need on many GPUs; nothing is run");
  plan->add_option("--simulate-ranks", line.simulate_ranks, "numbers of GPUs, comma-separated: 8,64,512")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  plan->add_option("--model", line.model, "preset or config, when init_from is not on this machine");
  plan->add_option("--samples", line.samples, "to be learned from; default: those of the stage's steps")->check(CLI::PositiveNumber);
  plan->add_option("--text-tokens", line.text_tokens, "of a sample, beside the visual ones")->check(CLI::PositiveNumber);
  plan->add_option("--slices", line.slices, "of a picture; default: one, or the overview and half of max_slices")->check(CLI::PositiveNumber);
  plan->add_option("--mfu", line.mfu, "part of the peak that is reached")->check(CLI::Range(0.001, 1.0));
  plan->add_option("--peak-tflops", line.peak_tflops, "of one GPU")->check(CLI::PositiveNumber);
  add_json(train, line);
}

void add_plot_command(CLI::App& app, CommandLine& line) {
  CLI::App* plot = app.add_subcommand("plot", "the curves of runs over each other, as one HTML page or PNG picture");
  plot->add_option("runs", line.runs, "folders of runs or of stages")->required();
  // No default_val: it would be that of every command's --out.
  plot->add_option("--out", line.out, "HTML page, or a picture where the name ends in .png; default: plot.html");
  add_json(plot, line);
}

void add_config_commands(CLI::App& app, CommandLine& line) {
  const auto config_command = [&](const char* name, const char* help, const char* file) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_option("config", line.file, file)->required();
    command->add_option("--set", line.overrides, "a.b=c: change a field of the config; may be repeated")->allow_extra_args(false);
    command->add_option("--run", line.run_name, "name of the run's folder");
    return command;
  };
  const auto add_resume = [&](CLI::App* command, const char* help) {
    CLI::Option* resume = command->add_flag("--resume", line.resume, help);
    command
        ->add_flag("--changed", line.changed,
                   "continue although a stage's optimizer or steps are others now; changes.jsonl in its folder lists what changed")
        ->needs(resume);
  };
  add_resume(config_command("run", "a whole recipe: stages, SFT, RLAIF-V, export, report", "recipe.json"),
             "continue an interrupted run; without it an existing run is an error");
  CLI::App* train = config_command("train", "one stage; with several processes under mpirun or srun", "stage.json");
  add_resume(train, "continue an interrupted stage");
  add_plan_options(train, line);
  config_command("explain", "every field of a config with its meaning", "recipe, stage, loop or model config");
}

void add_ablate_command(CLI::App& app, CommandLine& line) {
  CLI::App* ablate = app.add_subcommand("ablate", "runs that differ by switches alone, in one table beside a paper's figures");
  ablate->add_option("file", line.file, "ablation.json")->required();
  ablate->add_option("--out", line.out, "folder of runs and tables; what is finished in it is not run again")->required();
  ablate->add_option("--set", line.overrides, "a.b=c: change a field of the file, such as inputs.model=FILE; may be repeated")
      ->allow_extra_args(false);
  ablate->add_flag("--dry-run", line.dry_run, "print the commands, run nothing");
  add_json(ablate, line);
}

void add_model_commands(CLI::App& app, CommandLine& line) {
  CLI::App* generate = app.add_subcommand("generate", "answers of a checkpoint");
  generate->add_option("--checkpoint", line.checkpoint, "checkpoint folder")->required();
  generate->add_option("--image", line.images, "picture")->allow_extra_args(false);
  add_video(generate, line);
  generate->add_option("--prompt", line.prompt, "question or instruction")->required();
  generate->add_flag("--greedy", line.greedy, "most likely token at each step (the default)");
  generate->add_option("--temperature", line.temperature, "sample at this temperature")->check(CLI::Range(0.0, 100.0));
  generate->add_option("--top-p", line.top_p, "nucleus")->check(CLI::Range(0.0, 1.0));
  generate->add_option("--top-k", line.top_k, "0 is off")->check(CLI::NonNegativeNumber);
  generate->add_option("--seed", line.seed, "of the sampling streams");
  generate->add_option("--n", line.num_samples, "answers")->check(CLI::Range(1, 4096));
  generate->add_option("--max-new-tokens", line.max_new_tokens, "of an answer")->check(CLI::Range(1, 1 << 20));
  generate->add_option("--dtype", line.dtype, "of weights and matrix products; default: bf16 where the checkpoint's weights are, else f32")
      ->check(CLI::IsMember({"f32", "bf16"}));
  generate->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  add_json(generate, line);

  CLI::App* eval = app.add_subcommand("eval", "hallucination figures: CHAIR, recall, POPE");
  eval->add_option("--checkpoint", line.checkpoint, "checkpoint folder")->required();
  eval->add_option("--data", line.data, "folder made by `data scenes`")->required();
  eval->add_option("--prompt", line.instruction, "what the model is asked for its description");
  eval->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  add_json(eval, line);

  CLI::App* out = app.add_subcommand("export", "GGUF files for the phone and llama.cpp, ONNX files for its NPU, with the parity gate");
  out->add_option("--checkpoint", line.checkpoint, "checkpoint folder")->required();
  auto* what = out->add_option_group("what");
  what->add_option("--type", line.type, "GGUF files: f32, f16, q8_0, q4_0, q4_k_m, q6_k");
  what->add_option("--vision-onnx", line.vision_onnx, "vision encoder and projector as ONNX: fp16, int8 (quantize-dequantize), fp32")
      ->check(CLI::IsMember({"fp16", "int8", "fp32"}));
  what->require_option(1, 2);
  out->add_option("--mmproj-type", line.mmproj_type, "f32, f16 (the default), q8_0");
  out->add_option("--out", line.out, "folder")->required();
  out->add_option("--onnx-grid", line.onnx_grids,
                  "ROWSxCOLUMNS of patches, one ONNX file each; may be repeated; default: those of the pictures given, or the square")
      ->allow_extra_args(false);
  out->add_option("--onnx-longest", line.onnx_longest,
                  "patches of the longest slice of a request, for checkpoints whose slices depend on it (2.5 as released)")
      ->check(CLI::PositiveNumber);
  out->add_option("--image", line.images, "calibration picture for the parity gate")->allow_extra_args(false);
  out->add_option("--prompt", line.prompt, "calibration question");
  out->add_option("--importance-prompts", line.importance_prompts,
                  "measure on so many prompts which columns of the language model's matrices matter, and quantize accordingly; 0: the "
                  "reference's rules")
      ->check(CLI::NonNegativeNumber);
  out->add_option("--importance-image", line.importance_images, "measure that on these pictures; one or several")->check(CLI::ExistingFile);
  out->add_option("--importance-text", line.importance_text, "measure that on the text of this file")->check(CLI::ExistingFile);
  out->add_option("--gate", line.gate, "on (the default): compare with the trainer, which is loaded for it; off: write the files "
                                       "unchecked, in the memory of one tensor")
      ->check(CLI::IsMember({"on", "off"}));
  out->add_option("--dtype", line.dtype, "gate: of the trainer's weights in memory; default: bf16, mapped, where the checkpoint's are, else f32")
      ->check(CLI::IsMember({"f32", "bf16"}));
  out->add_option("--parity-prompts", line.parity_prompts, "gate: scenes to compare on; default: 16")->check(CLI::Range(1, 100000));
  out->add_option("--min-agreement", line.min_agreement, "gate: share of equal next-token choices; default: by type")->check(CLI::Range(0.0, 1.0));
  out->add_option("--min-vision-cosine", line.min_vision_cosine, "gate: smallest cosine of a visual token; default: 0.999")
      ->check(CLI::Range(-1.0, 1.0));
  add_json(out, line);
}

void add_bench_command(CLI::App& app, CommandLine& line) {
  CLI::App* bench = app.add_subcommand("bench", "how fast one kind of work runs here, on random weights and data");
  bench->add_option("--task", line.task, "sft, stage1, dpo, rollout or judge")->required();
  bench->add_option("--shapes", line.shapes, "JSON file with the sizes: vision, queries, resampler_heads, language")->required();
  bench->add_option("--dtype", line.dtype, "of matrix products; default: bf16")->check(CLI::IsMember({"f32", "bf16"}));
  bench->add_option("--device", line.device, "cpu or cuda, the first GPU; default: cpu")->check(CLI::IsMember({"cpu", "cuda"}));
  bench->add_option("--steps", line.steps, "timed after one that warms up")->check(CLI::Range(1, 1000000));
  bench->add_option("--batch", line.batch, "samples of an optimizer step")->check(CLI::Range(1, 1000000));
  bench->add_option("--longest-text", line.longest_text, "sft, stage1: texts of 8 to this many tokens; default: 512")
      ->check(CLI::Range(8, 1000000));
  bench->add_flag("--padded", line.padded, "sft, stage1: pad texts to the longest of their step instead of packing them");
  bench->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  add_json(bench, line);
}

void add_data_commands(CLI::App& app, CommandLine& line) {
  CLI::App* data = app.add_subcommand("data", "make and check data");
  data->require_subcommand(1);
  CLI::App* scenes = data->add_subcommand("scenes", "pictures of the embedded world with conversations and truth");
  scenes->add_option("--count", line.count, "samples")->check(CLI::Range(1, 100000000));
  scenes->add_option("--seed", line.seed, "same seed, same bytes");
  scenes->add_option("--out", line.out, "folder")->required();
  scenes->add_option("--sprites", line.sprites, "emoji or stamps")->check(CLI::IsMember({"emoji", "stamps"}));
  scenes->add_option("--languages", line.languages, "CLDR codes, comma-separated")->delimiter(',');
  scenes->add_option("--set", line.overrides, "a=b: change a field of the scenes config")->allow_extra_args(false);
  scenes->add_flag("--tar", line.tar, "also write tar shards");
  add_json(scenes, line);
  CLI::App* ocr = data->add_subcommand("ocr", "pictures of real text in many scripts, with conversations and truth");
  ocr->add_option("--count", line.count, "pictures")->check(CLI::Range(1, 100000000));
  ocr->add_option("--seed", line.seed, "same seed, same bytes");
  ocr->add_option("--text", line.text_file, "UTF-8 file whose lines are drawn; default: words of signs in ten languages");
  ocr->add_option("--photos", line.photos, "folder of photographs as backgrounds; default: textures");
  ocr->add_option("--fonts", line.fonts, "folder of fonts; default: those of the system");
  ocr->add_option("--out", line.out, "folder; one that was begun with the same settings is continued")->required();
  ocr->add_flag("--tar", line.tar, "tar shards instead of data.json and pictures");
  ocr->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  ocr->add_option("--set", line.overrides, "a=b: change a field of the ocr config")->allow_extra_args(false);
  add_json(ocr, line);
  CLI::App* rewrite = data->add_subcommand("rewrite", "noisy captions into questions and answers, by a checkpoint or a server");
  rewrite->add_option("file", line.file, ".json or .jsonl of conversations")->required();
  rewrite->add_option("--out", line.out, ".jsonl; failures and a report go beside it")->required();
  rewrite->add_option("--checkpoint", line.checkpoint, "checkpoint folder whose language model rewrites");
  rewrite->add_option("--server", line.server, "or an OpenAI-compatible server, such as http://host:port/v1");
  rewrite->add_option("--model", line.model, "name that the server knows the model by");
  rewrite->add_option("--template", line.template_file, "text file with {caption} where the caption goes");
  rewrite->add_flag("--keep-original", line.keep_original, "write records that fail, or have no caption, as they were");
  rewrite->add_flag("--resume", line.resume, "continue; without it an existing --out is an error");
  rewrite->add_option("--max-new-tokens", line.max_new_tokens, "of a reply")->check(CLI::Range(1, 1 << 20));
  rewrite->add_option("--dtype", line.dtype, "checkpoint: of weights and matrix products")->check(CLI::IsMember({"f32", "bf16"}));
  rewrite->add_option("--threads", line.threads, "checkpoint: 0: all cores")->check(CLI::NonNegativeNumber);
  rewrite->add_option("--concurrency", line.concurrency, "server: requests under way at once")->check(CLI::Range(1, 1024));
  rewrite->add_option("--attempts", line.attempts, "server: tries of one request before the command stops")->check(CLI::Range(1, 1000));
  rewrite->add_option("--timeout", line.timeout_s, "server: seconds for one request")->check(CLI::Range(0.01, 86400.0));
  rewrite->add_option("--api-key-variable", line.api_key_variable, "server: environment variable that holds the key");
  add_json(rewrite, line);
  CLI::App* check = data->add_subcommand("check", "what a data set would lose, and why");
  check->add_option("file", line.file, ".json, .jsonl, .tar or .txt, a pattern such as 'shards/*.tar', or a stage's config: all of its sources")
      ->required();
  check->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  check->add_option("--tokenizer", line.tokenizer, "with --model: also make tokens, as a stage would, and count them");
  check->add_option("--model", line.model, "preset, config file or checkpoint folder whose pictures and chats are meant; a stage has its own");
  check->add_option("--set", line.overrides, "a.b=c: change a field of the stage's config")->allow_extra_args(false);
  check->add_option("--html", line.html, "write a page with reasons and a histogram of lengths");
  add_json(check, line);
}

void add_released_commands(CLI::App& app, CommandLine& line) {
  CLI::App* import = app.add_subcommand("import", "a released MiniCPM-V or MobileVLM folder, or a LLaMA GGUF, as a checkpoint");
  import->add_option("source", line.file, "folder of the release, or file.gguf")->required();
  import->add_option("--out", line.out, "checkpoint folder")->required();
  import->add_option("--model", line.model, "GGUF: preset or config whose vision side (with random weights) stands before the language model");
  import->add_option("--seed", line.seed, "GGUF: of those random weights");
  import->add_flag("--allow-nonfinite", line.allow_nonfinite, "keep weights that are NaN or infinite");
  add_json(import, line);
  CLI::App* merge = app.add_subcommand("merge-adapter", "a checkpoint with a LoRA adapter (PEFT's form) folded into its weights");
  merge->add_option("--checkpoint", line.checkpoint, "checkpoint or released folder")->required();
  merge->add_option("--adapter", line.adapter, "folder with adapter_config.json and adapter_model.safetensors")->required();
  merge->add_option("--out", line.out, "folder")->required();
  add_json(merge, line);
  CLI::App* save = app.add_subcommand("save-hf", "a checkpoint in the released layout, for the original code");
  save->add_option("checkpoint", line.file, "checkpoint folder")->required();
  save->add_option("--out", line.out, "folder")->required();
  save->add_option("--source", line.source, "imported folder that the checkpoint was trained from; default: the checkpoint itself");
  save->add_flag("--allow-nonfinite", line.allow_nonfinite, "write weights that are NaN or infinite");
  add_json(save, line);
}

void add_init_command(CLI::App& app, CommandLine& line) {
  CLI::App* init = app.add_subcommand("init", "a checkpoint of random weights, for training from scratch or for measuring");
  init->add_option("model", line.file, "preset name or config file")->required();
  init->add_option("--tokenizer", line.tokenizer, "tokenizer.model, or a checkpoint folder")->required();
  init->add_option("--out", line.out, "checkpoint folder")->required();
  init->add_option("--dtype", line.dtype, "of the file; default: f32")->check(CLI::IsMember({"f32", "bf16"}));
  init->add_option("--seed", line.seed, "same seed, same weights");
  add_json(init, line);
}

void add_inspect_weights_commands(CLI::App& inspect, CommandLine& line) {
  CLI::App* checkpoint = inspect.add_subcommand("checkpoint", "tensors, dtypes, sizes and damage of a checkpoint or released folder");
  checkpoint->add_option("folder", line.file, "checkpoint or released folder")->required();
  add_json(checkpoint, line);
  CLI::App* forward = inspect.add_subcommand("forward", "one forward pass, every stage written as tensors");
  forward->add_option("--checkpoint", line.checkpoint, "checkpoint folder")->required();
  forward->add_option("--image", line.images, "picture; may be repeated")->allow_extra_args(false);
  auto* input = forward->add_option_group("input");
  input->add_option("--prompt", line.prompt, "question, put into the model's chat template");
  input->add_option("--ids", line.ids, "JSON file {\"ids\": [...]} with the filler id, or -200, at every visual token");
  input->require_option(1);
  forward->add_option("--dtype", line.dtype, "of weights and matrix products; default: f32")->check(CLI::IsMember({"f32", "bf16"}));
  forward->add_option("--compat", line.compat, "released: with the released code's quirks; right: without; default: the checkpoint's own")
      ->check(CLI::IsMember({"released", "right"}));
  forward->add_option("--max-slices", line.max_slices, "instead of the model's")->check(CLI::Range(1, 1024));
  forward->add_option("--threads", line.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  forward->add_option("--out", line.out, "safetensors file")->required();
  add_json(forward, line);
}

void add_inspect_commands(CLI::App& app, CommandLine& line) {
  CLI::App* inspect = app.add_subcommand("inspect", "look into models, checkpoints, images, tokens");
  inspect->require_subcommand(1);
  CLI::App* model = inspect->add_subcommand("model", "parameters, memory, work per token");
  model->add_option("model", line.file, "preset name or config file")->required();
  add_json(model, line);
  CLI::App* image = inspect->add_subcommand("image", "how a picture is cut, and its pixels");
  image->add_option("file", line.file, "picture")->required();
  image->add_option("--model", line.model, "preset name or config file")->required();
  image->add_option("--max-slices", line.max_slices, "instead of the model's")->check(CLI::Range(1, 1024));
  image->add_option("--out", line.out, "write slice.0, slice.1 ... as safetensors");
  image->add_option("--png", line.png, "draw the slices over the picture");
  add_json(image, line);
  CLI::App* tokens = inspect->add_subcommand("tokens", "ids and pieces of a text, or the token layout of a conversation");
  tokens->add_option("--tokenizer", line.tokenizer, "tokenizer.model, tokenizer.json, tiktoken or .gguf file, or a folder");
  auto* group = tokens->add_option_group("input");
  group->add_option("--text", line.text, "the text itself");
  group->add_option("--text-file", line.text_file, "a file, byte for byte");
  group->add_option("--jsonl-file", line.jsonl_file, "one JSON string a line");
  group->add_option("--prompt", line.prompt, "a question: the tokens that --model would see, up to where the answer begins");
  group->add_option("--conversation", line.conversation, ".json or .jsonl of training data: the tokens and labels of one record");
  group->require_option(1);
  tokens->add_option("--model", line.model, "preset, config file or checkpoint folder: template and pictures of --prompt and --conversation");
  tokens->add_option("--image", line.images, "picture of --prompt; may be repeated")->allow_extra_args(false);
  add_video(tokens, line);
  tokens->add_option("--index", line.index, "which record of --conversation, from 0")->check(CLI::NonNegativeNumber);
  tokens->add_option("--compat", line.compat, "instead of prompt.compat of the model")->check(CLI::IsMember({"released", "right"}));
  tokens->add_option("--max-slices", line.max_slices, "instead of the model's")->check(CLI::Range(1, 1024));
  tokens->add_flag("--specials", line.specials, "special tokens written in the text become their ids");
  tokens->add_flag("--bos", line.bos, "begin with the BOS id");
  tokens->add_flag("--eos", line.eos, "end with the EOS id");
  add_json(tokens, line);
  add_inspect_weights_commands(*inspect, line);
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  CommandLine line;
  CLI::App app{"pocketvlm: a vision-language model from pre-training to a phone"};
  app.name("pocketvlm");
  app.require_subcommand(1);
  app.set_version_flag("--version", "pocketvlm 0.1.0");
  add_config_commands(app, line);
  add_rlaif_commands(app, line);
  add_model_commands(app, line);
  add_bench_command(app, line);
  add_plot_command(app, line);
  add_ablate_command(app, line);
  add_data_commands(app, line);
  add_inspect_commands(app, line);
  add_released_commands(app, line);
  add_init_command(app, line);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    std::exit(status == 0 ? 0 : 1);
  }
  line.command = chosen_command(app);
  return line;
}

}  // namespace pocketvlm
