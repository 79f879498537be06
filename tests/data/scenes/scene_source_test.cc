#include "data/scenes/scene_source.h"

#include <gtest/gtest.h>

namespace pocketvlm {
TEST(SceneSource, starts) {}
}
