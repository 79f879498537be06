#pragma once

#include <CLI/CLI.hpp>

namespace pocketvlm {

/// The commands of pocketvlm-mobile. Each adds its subcommand with a callback that runs it.
void add_chat_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_tune_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_serve_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_forward_command(CLI::App& app);
void add_pack_command(CLI::App& app);

}  // namespace pocketvlm
