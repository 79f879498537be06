#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>

namespace pocketvlm {

void set_up_logging(int rank) {
  auto logger = std::make_shared<spdlog::logger>(
      "pocketvlm", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern(rank < 0 ? "%H:%M:%S %^%l%$ %v"
                               : fmt::format("%H:%M:%S [rank {}] %^%l%$ %v", rank));
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace pocketvlm
