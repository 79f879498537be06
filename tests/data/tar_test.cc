#include "data/tar.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/log.h"
#include "tests/data/test_data.h"

namespace pocketvlm {
namespace {

using test::error_of;
using test::make_tar;
using test::sign_tar_header;
using test::TarEntry;
using test::test_picture;
using test::TestFolder;

std::vector<TarMember> index_of(const std::string& tar) {
  return read_tar_index({reinterpret_cast<const std::byte*>(tar.data()), tar.size()}, "shard.tar").members;
}

std::string pax(const std::string& key, const std::string& value) {
  std::size_t length = key.size() + value.size() + 3;
  while (std::to_string(length).size() + key.size() + value.size() + 3 != length) ++length;
  return fmt::format("{} {}={}\n", length, key, value);
}

const std::string kChat =
    R"("conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}])";

TEST(TarIndex, ListsRegularFilesOnly) {
  const std::string tar = make_tar({{"folder/", "", '5', "", ""},
                                    {"folder/a.json", "{}", '0', "", ""},
                                    {"link", "", '2', "00000001000", ""},
                                    {"old", "xyz", '\0', "", ""},
                                    {"long.json", "123", '0', "", "some/prefix"}});
  const auto members = index_of(tar);
  ASSERT_EQ(members.size(), 3U);
  EXPECT_EQ(members[0].name, "folder/a.json");
  EXPECT_EQ(members[0].bytes, 2U);
  EXPECT_EQ(tar.substr(members[1].offset, members[1].bytes), "xyz");
  EXPECT_EQ(members[2].name, "some/prefix/long.json");
}

TEST(TarIndex, ReadsPaxAndGnuNamesAndSizes) {
  const std::string name(300, 'n');
  const auto members =
      index_of(make_tar({{"x", pax("mtime", "1.5") + pax("path", name + "\xc3\xa9"), 'x', "", ""},
                         {"short", "abc", '0', "", ""},
                         {"././@LongLink", name + std::string(1, '\0'), 'L', "", ""},
                         {"short", "defg", '0', "", ""},
                         {"x", pax("size", "5"), 'x', "", ""},
                         {"sized", "hello", '0', "00000000000", ""},
                         {"g", pax("comment", "none"), 'g', "", ""},
                         {"big", "12", '0', std::string("\x80\0\0\0\0\0\0\0\0\0\0\x02", 12), ""}}));
  ASSERT_EQ(members.size(), 4U);
  EXPECT_EQ(members[0].name, name + "\xc3\xa9");
  EXPECT_EQ(members[1].name, name);
  EXPECT_EQ(members[1].bytes, 4U);
  EXPECT_EQ(members[2].name, "sized");
  EXPECT_EQ(members[2].bytes, 5U);
  EXPECT_EQ(members[3].bytes, 2U);
}

TEST(TarIndex, HostileArchivesAreErrors) {
  const std::string good = make_tar({{"a.json", "{}", '0', "", ""}});
  std::string wrong_sum = good;
  wrong_sum[0] = 'b';
  std::string bad_digits = good;
  bad_digits.replace(124, 11, "0000000009z");
  sign_tar_header(bad_digits, 0);
  const auto one = [](TarEntry entry) { return make_tar({std::move(entry)}); };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "empty"},
      {"hello", "cut off inside a header"},
      {std::string(600, 'x'), "not an octal number"},
      {wrong_sum, "not a tar archive"},
      {bad_digits, "not an octal number"},
      {good.substr(0, 513), "goes beyond the end"},
      {good.substr(0, 1100), "cut off inside a header"},
      {one({"a", "", '0', "77777777777", ""}), "goes beyond the end"},
      {one({"a", "", '0', std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12), ""}),
       "out of range"},
      {one({"a", "", '0', std::string("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12), ""}),
       "goes beyond the end"},
      {one({"a", "", 'S', "", ""}), "sparse"},
      {one({"", "x", '0', "", ""}), "no name"},
      {one({"x", "99999 path=a\n", 'x', "", ""}), "pax record"},
      {one({"x", "5 a=b", 'x', "", ""}), "pax record"},
      {one({"x", "0 a=b\n", 'x', "", ""}), "pax record"},
      {one({"x", "-7 a=b\n", 'x', "", ""}), "pax record"},
      {one({"x", "7 ab c\n", 'x', "", ""}), "no '='"},
      {one({"x", "999999999999999999999 a=b\n", 'x', "", ""}), "pax record"},
      {one({"x", pax("size", "-1"), 'x', "", ""}), "not a number"},
      {one({"x", std::string(1 << 21, 'a'), 'L', "", ""}), "longer than 1 MiB"},
      {make_tar({{"x", pax("size", "999999999999999999"), 'x', "", ""}, {"a", "b", '0', "", ""}}),
       "goes beyond the end"},
      {"\x1f\x8b\x08 compressed", "gzip"},
  };
  for (const auto& [tar, wanted] : cases) {
    const std::string error = error_of([&] { index_of(tar); });
    EXPECT_NE(error.find("shard.tar"), std::string::npos) << wanted;
    EXPECT_NE(error.find(wanted), std::string::npos) << wanted << " -> " << error;
  }
}

TEST(TarIndex, NoDamageCrashesIt) {
  const std::string good = make_tar({{"x", pax("path", "dir/a.json"), 'x', "", ""},
                                     {"a.json", "{}", '0', "", ""},
                                     {"././@LongLink", std::string(120, 'n'), 'L', "", ""},
                                     {"b.png", "12345", '0', "", ""}});
  for (std::size_t end = 0; end < good.size(); end += 37)
    error_of([&] { index_of(good.substr(0, end)); });
  const auto level = spdlog::get_level();
  spdlog::set_level(spdlog::level::err);
  std::uint32_t state = 1;
  const auto random = [&] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (int round = 0; round < 3000; ++round) {
    std::string tar = good;
    for (int change = 0; change < 4; ++change)
      tar[random() % tar.size()] = static_cast<char>(random());
    // Damage behind a right checksum goes deeper.
    for (std::size_t header = 0; header + 512 <= tar.size(); header += 512) {
      if (round % 2 == 0 && tar.substr(header + 257, 5) == "ustar") sign_tar_header(tar, header);
    }
    error_of([&] {
      for (const TarMember& member : index_of(tar))
        ASSERT_LE(member.offset + member.bytes, tar.size());
    });
  }
  spdlog::set_level(level);
}

TEST(TarSource, ReadsShardsWhoseMembersAreApart) {
  const TestFolder folder;
  const std::string png = encode_png(test_picture(20, 10));
  const std::string jpeg = encode_jpeg(test_picture(40, 10), 90);
  const TarSource source(folder.write(
      "shard.tar",
      make_tar({{"./a/0001.json", R"({"image": "old/place.png", )" + kChat + "}", '0', "", ""},
                {"a/0002.json", "{" + kChat + "}", '0', "", ""},
                {"./a/0001.PNG", png, '0', "", ""},
                {"a/0001.mask.png", png, '0', "", ""},
                {"notes.txt", "hello", '0', "", ""},
                {"a/0002.jpeg", jpeg, '0', "", ""},
                {"a/v1.2.json",
                 R"({"id": "named", "image": "0002.jpeg", )" + kChat + "}",
                 '0',
                 "",
                 ""}})));
  ASSERT_EQ(source.size(), 3);
  EXPECT_EQ(source.at(0).id, "a/0001");
  EXPECT_EQ(source.at(0).chat.images.at(0).rgb, test_picture(20, 10).rgb);
  EXPECT_EQ(source.at(1).chat.images.at(0).width, 40);
  EXPECT_EQ(source.at(2).id, "named");
  EXPECT_EQ(source.at(2).chat.images.at(0).width, 40);
  EXPECT_EQ(source.place(2), "a/v1.2");
}

TEST(TarSource, SeveralPicturesAreFoundByTheNamesOfTheRecord) {
  const TestFolder folder;
  const TarSource source(folder.write(
      "shard.tar",
      make_tar({{"k.json",
                 R"({"image": {"<image_00>": "k.0.png", "<image_01>": "k.1.png"}, )" + kChat + "}",
                 '0',
                 "",
                 ""},
                {"k.0.png", encode_png(test_picture(3, 5)), '0', "", ""},
                {"k.1.png", encode_png(test_picture(4, 5)), '0', "", ""}})));
  ASSERT_EQ(source.size(), 1);
  ASSERT_EQ(source.at(0).chat.images.size(), 2U);
  EXPECT_EQ(source.at(0).chat.images[1].width, 4);
}

TEST(TarSource, AVideoListsItsFramesBesideTheRecord) {
  const TestFolder folder;
  const TarSource source(folder.write(
      "shard.tar",
      make_tar({{"k.json", R"({"video": ["k.1.png", "k.0.png"], )" + kChat + "}", '0', "", ""},
                {"k.0.png", encode_png(test_picture(3, 5)), '0', "", ""},
                {"k.1.png", encode_png(test_picture(4, 5)), '0', "", ""}})));
  ASSERT_EQ(source.size(), 1);
  const Sample sample = source.at(0);
  EXPECT_TRUE(sample.is_video);
  ASSERT_EQ(sample.chat.images.size(), 2U);
  EXPECT_EQ(sample.chat.images[0].width, 4);
}

TEST(TarSource, DamagedSamplesAreToldApart) {
  const TestFolder folder;
  const std::string png = encode_png(test_picture(20, 10));
  const std::vector<std::pair<std::vector<TarEntry>, std::string>> cases = {
      {{{"a.png", png, '0', "", ""}}, "no conversation"},
      {{{"a.json", "{" + kChat + "}", '0', "", ""}, {"a.json", "{}", '0', "", ""}},
       "duplicate member"},
      {{{"a.json", "{" + kChat + "}", '0', "", ""},
        {"a.png", png, '0', "", ""},
        {"a.webp", png, '0', "", ""}},
       "ambiguous image"},
      {{{"a.json", R"({"image": "b.png", )" + kChat + "}", '0', "", ""}}, "missing image"},
      {{{"a.json", "{" + kChat + "}", '0', "", ""},
        {"a.png", png.substr(0, png.size() - 30), '0', "", ""}},
       "damaged image"},
      {{{"a.json", "{" + kChat + "}", '0', "", ""}, {"a.png", "", '0', "", ""}}, "not an image"},
      {{{"a.json", "", '0', "", ""}}, "invalid JSON"},
      {{{"a.json", R"({"text": "caption"})", '0', "", ""}, {"a.png", png, '0', "", ""}}, "document with pictures"},
      {{{"a.json", R"({"video": "frames", )" + kChat + "}", '0', "", ""}}, "missing video"},
      {{{"a.json", "[]", '0', "", ""}, {"a.png", png, '0', "", ""}}, "wrong type"},
      {{{"a.json", "{\"text\": \"\xfe\"}", '0', "", ""}}, "invalid UTF-8"},
  };
  for (const auto& [entries, reason] : cases) {
    const TarSource source(folder.write("shard.tar", make_tar(entries)));
    ASSERT_EQ(source.size(), 1) << reason;
    try {
      source.at(0);
      ADD_FAILURE() << reason;
    } catch (const DamagedSample& e) {
      EXPECT_EQ(e.reason(), reason) << e.what();
      EXPECT_EQ(e.place(), "a");
    }
  }
}

TEST(TarSource, ReadsWhatTheTarProgramWrites) {
  const TestFolder folder;
  const std::string name(180, 'n');
  folder.write("in/" + name + ".json", "{" + kChat + "}");
  folder.write("in/" + name + ".png", encode_png(test_picture(6, 7)));
  for (const std::string format : {"ustar", "gnu", "pax", "v7"}) {
    // The old format holds names of 100 bytes.
    if (format == "v7")
      std::filesystem::rename(folder.path("in/" + name + ".json"), folder.path("in/n.json"));
    if (format == "v7")
      std::filesystem::rename(folder.path("in/" + name + ".png"), folder.path("in/n.png"));
    const std::string transform =
        format == "ustar" ? " --transform 's|nnnn/||;s|/n\\{90\\}|/d&/|;s|d/|d|'" : "";
    const std::string command = fmt::format("tar --format={}{} -C '{}' -cf '{}' in 2>/dev/null",
                                            format,
                                            transform,
                                            folder.path(""),
                                            folder.path("out.tar"));
    if (std::system("tar --version > /dev/null 2>&1") != 0)
      GTEST_SKIP() << "there is no tar program";
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
    const TarSource source(folder.path("out.tar"));
    ASSERT_EQ(source.size(), 1) << format;
    EXPECT_EQ(source.at(0).chat.images.at(0).height, 7) << format;
  }
}

}  // namespace
}  // namespace pocketvlm
