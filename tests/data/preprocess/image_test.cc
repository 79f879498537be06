#include "data/preprocess/image.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "base/random.h"
#include "image_golden.h"

namespace pocketvlm {
namespace {

std::string golden_file(const std::string& name) { return kPreprocessData + "images/" + name; }

Image decode(std::string_view bytes, const DecodeOptions& options = {}) {
  return decode_image(std::as_bytes(std::span(bytes)), "sample.bin", options);
}

/// The error text, or "" when the file is an image.
std::string refusal(std::string_view bytes, const DecodeOptions& options = {}) {
  try {
    decode(bytes, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_equal(const Image& image, const Json& golden) {
  EXPECT_EQ(image.width, golden["width"].get<int>());
  EXPECT_EQ(image.height, golden["height"].get<int>());
  EXPECT_EQ(checksum(image.rgb), golden["crc32"].get<std::string>());
}

TEST(Image, EveryKindOfFileGivesPillowsPixels) {
  int files = 0;
  for (const Json& item : image_golden()["decode"]) {
    SCOPED_TRACE(item.dump());
    expect_equal(load_image(golden_file(item["file"])), item);
    ++files;
  }
  EXPECT_GE(files, 70);
}

TEST(Image, ExifOrientationIsAppliedOnlyWhenAsked) {
  int files = 0;
  for (const Json& item : image_golden()["decode"]) {
    if (!item.contains("upright")) continue;
    SCOPED_TRACE(item.dump());
    expect_equal(load_image(golden_file(item["file"]), {.apply_exif = true}), item["upright"]);
    ++files;
  }
  EXPECT_EQ(files, 10);
}

void expect_outline(const Image& outline, int width, int height) {
  EXPECT_EQ(outline.width, width);
  EXPECT_EQ(outline.height, height);
  EXPECT_FALSE(outline.has_pixels());
}

TEST(Image, AnOutlineHasTheSizeThatDecodingGives) {
  for (const Json& item : image_golden()["decode"]) {
    SCOPED_TRACE(item.dump());
    const std::string bytes = read_file(golden_file(item["file"]));
    expect_outline(decode(bytes, {.size_only = true}), item["width"], item["height"]);
    const DecodeOptions exif{.apply_exif = true};
    const Image upright = decode(bytes, exif);
    EXPECT_TRUE(upright.has_pixels());
    expect_outline(decode(bytes, exif.for_sizes()), upright.width, upright.height);
  }
}

TEST(Image, AnOutlineIsRefusedForWhatTheHeaderShowsAndNeverForMore) {
  Random random({43});
  const DecodeOptions options{.max_megapixels = 1};
  int refused = 0, hidden = 0;
  const auto compare = [&](std::string_view bytes) {
    const std::string whole = refusal(bytes, options), header = refusal(bytes, options.for_sizes());
    if (whole.empty()) {
      const Image image = decode(bytes, options);
      ASSERT_EQ(header, "");
      expect_outline(decode(bytes, options.for_sizes()), image.width, image.height);
    } else if (!header.empty()) {
      EXPECT_EQ(header, whole);
      ++refused;
    } else {
      ++hidden;
    }
  };
  for (const Json& item : image_golden()["decode"]) {
    SCOPED_TRACE(item.dump());
    const std::string whole = read_file(golden_file(item["file"]));
    for (std::size_t size = 0; size < whole.size(); size += 1 + whole.size() / 40) compare(whole.substr(0, size));
    for (int round = 0; round < 40; ++round) {
      std::string bytes = whole;
      for (int flips = 0; flips < 3; ++flips) {
        bytes[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(bytes.size())))] =
            static_cast<char>(random.below(256));
      }
      compare(bytes);
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(hidden, 500);
}

TEST(Image, EveryTruncatedFileIsAnErrorNeverGreyFill) {
  for (const Json& item : image_golden()["decode"]) {
    const std::string name = item["file"];
    if (name == "trailing.jpg") continue;  // its last bytes are not part of the image
    const std::string bytes = read_file(golden_file(name));
    const bool is_gif = name.ends_with(".gif");
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      const std::string text = refusal(std::string_view(bytes).substr(0, size));
      // Of a GIF only the first frame is read: nothing after it is missed.
      if (is_gif && text.empty()) {
        expect_equal(decode(std::string_view(bytes).substr(0, size)), item);
        EXPECT_GT(size, bytes.size() / 3) << name;
        continue;
      }
      ASSERT_TRUE(text.starts_with("sample.bin: ")) << name << " cut at " << size << ": " << text;
    }
  }
}

TEST(Image, DamagedFilesGiveAnErrorOrAnImageOfTheSameKindNeverACrash) {
  Random random({41});
  for (const Json& item : image_golden()["decode"]) {
    const std::string whole = read_file(golden_file(item["file"]));
    for (int round = 0; round < 60; ++round) {
      std::string bytes = whole;
      for (int flips = 0; flips < 3; ++flips) {
        bytes[random.below(static_cast<std::int64_t>(bytes.size()))] =
            static_cast<char>(random.below(256));
      }
      const std::string text = refusal(bytes, {.max_megapixels = 1});
      EXPECT_TRUE(text.empty() || text.starts_with("sample.bin: ")) << text;
    }
  }
}

TEST(Image, ADamagedJpegBodyIsAnError) {
  std::string bytes = read_file(golden_file("420_larger.jpg"));
  // An end marker in the middle of the coefficients: decoders that go on fill the rest with grey.
  bytes[bytes.size() / 2] = '\xff';
  bytes[bytes.size() / 2 + 1] = '\xd9';
  const std::string text = refusal(bytes);
  EXPECT_NE(text.find("sample.bin: damaged or truncated JPEG"), std::string::npos) << text;
}

TEST(Image, ADamagedPngChecksumIsAnError) {
  std::string bytes = read_file(golden_file("rgb8.png"));
  bytes[bytes.size() - 14] ^= 1;  // the checksum of the picture data
  EXPECT_NE(refusal(bytes).find("damaged or truncated PNG"), std::string::npos);
}

TEST(Image, ErrorsNameTheFileAndTheCure) {
  EXPECT_NE(refusal("").find("sample.bin: the image file is empty"), std::string::npos);
  EXPECT_NE(refusal("<html>not found</html>").find("neither JPEG, PNG, WebP nor GIF"),
            std::string::npos);
  EXPECT_THROW(load_image("/nonexistent/picture.png"), Error);
  const std::string path = testing::TempDir() + "cut.jpg";
  write_file_atomic(path, read_file(golden_file("444.jpg")).substr(0, 700));
  try {
    load_image(path);
    FAIL() << "a truncated file was accepted";
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with(path)) << error.what();
  }
}

TEST(Image, LargeImagesAreRefusedFromTheHeaderBeforeMemoryIsTaken) {
  for (const char* name :
       {"444.jpg", "rgb8.png", "lossy.webp", "animated_lossy.webp", "palette.gif"}) {
    const std::string bytes = read_file(golden_file(name));
    EXPECT_NE(refusal(bytes, {.max_megapixels = 0.0002}).find("above max_megapixels = 0.0002"),
              std::string::npos)
        << name;
  }
  // Headers that promise far more than memory holds; nothing behind them is looked at.
  std::string gif = read_file(golden_file("palette.gif"));
  gif.replace(6, 4, "\xff\xff\xff\xff");
  EXPECT_NE(refusal(gif).find("65535 x 65535"), std::string::npos);
  std::string webp = read_file(golden_file("animated_lossy.webp"));
  webp.replace(24, 6, "\xff\x3f\x00\xff\x3f\x00", 6);
  EXPECT_NE(refusal(webp).find("16384 x 16384"), std::string::npos);
  std::string jpeg = read_file(golden_file("444.jpg"));
  const std::size_t frame = jpeg.find("\xff\xc0");
  jpeg.replace(frame + 5, 4, "\xff\x00\xff\x00", 4);
  EXPECT_NE(refusal(jpeg).find("65280 x 65280"), std::string::npos);
}

TEST(Image, PngKeepsPixelsAndItsBytesAreRepeatable) {
  for (const auto& [width, height] : {std::pair{1, 1}, {37, 5}, {200, 3}}) {
    const Image image = pattern(width, height, 4);
    const std::string bytes = encode_png(image);
    const Image back = decode(bytes);
    EXPECT_EQ(back.width, width);
    EXPECT_EQ(back.rgb, image.rgb);
    EXPECT_EQ(encode_png(image), bytes);
  }
  EXPECT_THROW(encode_png(Image()), Error);
}

TEST(Image, JpegStaysNearThePixels) {
  Image image(40, 30);
  for (int y = 0; y < 30; ++y) {
    for (int x = 0; x < 40; ++x) {
      image.at(x, y)[0] = static_cast<std::uint8_t>(5 * x);
      image.at(x, y)[1] = static_cast<std::uint8_t>(6 * y);
      image.at(x, y)[2] = static_cast<std::uint8_t>(3 * x + 3 * y);
    }
  }
  const Image back = decode(encode_jpeg(image, 95));
  ASSERT_EQ(back.rgb.size(), image.rgb.size());
  double difference = 0;
  for (std::size_t i = 0; i < back.rgb.size(); ++i) {
    difference += std::abs(int{back.rgb[i]} - int{image.rgb[i]});
  }
  EXPECT_LT(difference / static_cast<double>(back.rgb.size()), 3.0);
  EXPECT_LT(encode_jpeg(image, 30).size(), encode_jpeg(image, 95).size());
  EXPECT_THROW(encode_jpeg(image, 0), Error);
  EXPECT_THROW(encode_jpeg(Image(), 50), Error);
}

}  // namespace
}  // namespace pocketvlm
