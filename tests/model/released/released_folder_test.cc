#include "model/released/released_folder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/files.h"
#include "data/preprocess/tokenizer.h"
#include "model/config.h"
#include "model/released/released_tensors.h"
#include "tests/model/released/tiny_release.h"

namespace pocketvlm {
namespace {

namespace fs = std::filesystem;

class ReleasedFolder : public testing::Test {
 protected:
  ReleasedFolder() {
    root_ = testing::TempDir() + "/released_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    source_ = root_ + "/source";
    imported_ = root_ + "/imported";
    saved_ = root_ + "/saved";
  }
  ~ReleasedFolder() override { fs::remove_all(root_); }

  void write(const std::string& family, int shards = 1) {
    write_release(source_, tiny_release_config(family), tiny_release_tensors(family), shards);
  }

  /// The text of the error that importing the folder ends with; also checks that nothing is left behind.
  std::string import_error(const ImportOptions& options = {}) {
    try {
      import_released(source_, imported_, options);
    } catch (const Error& error) {
      for (const auto& entry : fs::directory_iterator(root_)) EXPECT_EQ(entry.path(), fs::path(source_)) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return {};
  }

  std::string root_, source_, imported_, saved_;
};

void expect_equal(const OwnedTensors& a, const OwnedTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    EXPECT_EQ(tensor.dtype, b.at(name).dtype) << name;
    EXPECT_EQ(tensor.shape, b.at(name).shape) << name;
    EXPECT_TRUE(tensor.bytes == b.at(name).bytes) << name;
  }
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(ReleasedFolder, ImportAndSaveGiveBackEveryBitOfEveryFamily) {
  for (const std::string& family : release_families()) {
    for (const char* dtype : {"BF16", "F32", "F16"}) {
      for (const int shards : {1, 3}) {
        const OwnedTensors tensors = tiny_release_tensors(family, dtype);
        write_release(source_, tiny_release_config(family), tensors, shards);
        fs::remove_all(imported_);
        fs::remove_all(saved_);
        EXPECT_EQ(import_released(source_, imported_).family, family);
        save_released(imported_, "", saved_);
        expect_equal(read_tensors(saved_), tensors);
        EXPECT_EQ(read_file(saved_ + "/config.json"), read_file(source_ + "/config.json"));
        EXPECT_EQ(read_file(saved_ + "/generation_config.json"), read_file(source_ + "/generation_config.json"));
      }
    }
  }
}

TEST_F(ReleasedFolder, AnImportedFolderIsACheckpointWithOurNames) {
  write("minicpmv-2.0", 2);
  const FolderSummary summary = import_released(source_, imported_);
  const OwnedTensors released = read_tensors(source_), ours = read_tensors(imported_);
  EXPECT_EQ(summary.tensors, static_cast<std::int64_t>(released.size()));
  EXPECT_EQ(ours.at("language.layers.1.self_attn.o_proj.weight").bytes,
            released.at("llm.model.layers.1.self_attn.o_proj.weight").bytes);
  EXPECT_EQ(ours.at("vision_encoder.patch_embedding.weight").shape, (std::vector<std::int64_t>{16, 588}));
  // Fused query, key and value: key is the middle third.
  const std::string& fused = released.at("vpm.blocks.1.attn.qkv.weight").bytes;
  EXPECT_EQ(ours.at("vision_encoder.blocks.1.attn.k_proj.weight").bytes, fused.substr(fused.size() / 3, fused.size() / 3));
  EXPECT_EQ(ours.count("resampler.pos_embed"), 0U);
  const Json config = read_json(imported_ + "/config.json");
  EXPECT_EQ(config["format"], "pocketvlm");
  EXPECT_EQ(read_config<ModelConfig>(config["model"], "config").family, "minicpmv-2.0");
}

TEST_F(ReleasedFolder, ShardsAreCutAtTheLimitAndReadBack) {
  write("mobilevlm");
  ImportOptions options;
  options.max_shard_bytes = 60000;
  import_released(source_, imported_, options);
  EXPECT_TRUE(fs::exists(imported_ + "/model.safetensors.index.json"));
  std::size_t shards = 0;
  for (const auto& entry : fs::directory_iterator(imported_)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    const SafetensorsFile file(entry.path().string());
    EXPECT_TRUE(fs::file_size(entry.path()) < 70000 || file.tensors().size() == 1) << entry.path();
  }
  EXPECT_GT(shards, 3U);
  save_released(imported_, "", saved_, options);
  expect_equal(read_tensors(saved_), read_tensors(source_));
}

TEST_F(ReleasedFolder, WeightsThatWereTrainedGoBackWithTheSourcesFiles) {
  write("mobilevlm");
  import_released(source_, imported_);
  // A training run writes float32 weights and config.json alone.
  const std::string trained = root_ + "/trained";
  make_folders(trained);
  write_file_atomic(trained + "/config.json", read_file(imported_ + "/config.json"));
  OwnedTensors tensors = read_tensors(imported_);
  std::vector<TensorToWrite> written;
  for (auto& [name, tensor] : tensors) {
    tensor.dtype = "F32";
    std::string wide;
    for (std::size_t i = 0; i < tensor.bytes.size(); i += 2) wide += std::string(2, '\0') + tensor.bytes.substr(i, 2);
    tensor.bytes = wide;
    written.push_back({name, tensor.dtype, tensor.shape, [&tensor = tensor] { return std::as_bytes(std::span(tensor.bytes)); }});
  }
  write_safetensors(trained + "/model.safetensors", written);
  try {
    save_released(trained, "", saved_);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_TRUE(has(error.what(), "--source")) << error.what();
  }
  save_released(trained, imported_, saved_);
  const OwnedTensors back = read_tensors(saved_), source = read_tensors(source_);
  ASSERT_EQ(back.size(), source.size());
  EXPECT_EQ(back.at("model.norm.weight").dtype, "F32");
  const std::string last = "model.vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight";
  EXPECT_EQ(back.at(last).bytes, source.at(last).bytes);
}

TEST_F(ReleasedFolder, BuffersOfSomeVersionsArePassedThrough) {
  OwnedTensors tensors = tiny_release_tensors("mobilevlm-v2");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {8}, std::string(32, '\1')};
  tensors["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = {"I64", {1, 17}, std::string(136, '\2')};
  write_release(source_, tiny_release_config("mobilevlm-v2"), tensors);
  import_released(source_, imported_);
  save_released(imported_, "", saved_);
  expect_equal(read_tensors(saved_), tensors);
}

TEST_F(ReleasedFolder, AVocabularyInTokenizerJsonComesAlong) {
  write("minicpmv-2.6");
  Json vocab = {{"<unk>", 0}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 1 + byte;
  vocab["a"] = 257;
  const Json tokenizer = {{"normalizer",
                           {{"type", "Sequence"},
                            {"normalizers",
                             {{{"type", "Prepend"}, {"prepend", "\xe2\x96\x81"}},
                              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xe2\x96\x81"}}}}}},
                          {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", Json::array()}}},
                          {"added_tokens", {{{"id", 258}, {"content", "<image>"}, {"special", true}}}}};
  write_json(source_ + "/tokenizer.json", tokenizer);
  import_released(source_, imported_);
  const Tokenizer loaded = Tokenizer::load(imported_);
  EXPECT_EQ(loaded.require("<image>"), 258);
  save_released(imported_, "", saved_);
  EXPECT_EQ(read_file(saved_ + "/tokenizer.json"), read_file(source_ + "/tokenizer.json"));
  EXPECT_FALSE(fs::exists(saved_ + "/tokenizer.model"));
  write_json(source_ + "/tokenizer.json", {{"model", {{"type", "WordPiece"}}}});
  import_released(source_, imported_);  // an unknown kind of vocabulary is left out, the weights are not
  EXPECT_FALSE(fs::exists(imported_ + "/tokenizer.model"));
  EXPECT_TRUE(fs::exists(imported_ + "/model.safetensors"));
}

TEST_F(ReleasedFolder, MissingUnexpectedAndMisshapenTensorsAreListedInOneError) {
  OwnedTensors tensors = tiny_release_tensors("minicpmv-2.6");
  tensors.erase("resampler.query");
  tensors.erase("llm.model.layers.1.mlp.up_proj.weight");
  tensors["llm.model.extra.weight"] = {"BF16", {1}, std::string(2, '\0')};
  tensors["vpm.post_layernorm.bias"].shape = {4, 4};
  tensors["llm.model.norm.weight"].dtype = "I16";
  write_release(source_, tiny_release_config("minicpmv-2.6"), tensors);
  const std::string error = import_error();
  EXPECT_TRUE(has(error, source_)) << error;
  EXPECT_TRUE(has(error, "missing tensors: llm.model.layers.1.mlp.up_proj.weight, resampler.query")) << error;
  EXPECT_TRUE(has(error, "unexpected tensors: llm.model.extra.weight")) << error;
  EXPECT_TRUE(has(error, "wrong shapes: vpm.post_layernorm.bias [4, 4] instead of [16]")) << error;
  EXPECT_TRUE(has(error, "llm.model.norm.weight I16")) << error;
}

TEST_F(ReleasedFolder, EveryTensorIsNeeded) {
  for (const std::string& family : release_families()) {
    for (const auto& [name, tensor] : tiny_release_tensors(family)) {
      OwnedTensors tensors = tiny_release_tensors(family);
      tensors.erase(name);
      write_release(source_, tiny_release_config(family), tensors);
      EXPECT_TRUE(has(import_error(), "missing tensors: " + name)) << family;
    }
    if (testing::Test::HasFailure()) break;
  }
}

TEST_F(ReleasedFolder, ATowerMayBeCountedWithOrWithoutTheBlockThatIsDropped) {
  for (const int layers : {2, 3}) {
    Json config = tiny_release_config("minicpmv-1.0");
    config["vision_config"]["num_hidden_layers"] = layers;  // two are stored
    write_release(source_, config, tiny_release_tensors("minicpmv-1.0"));
    import_released(source_, imported_);
    EXPECT_EQ(read_json(imported_ + "/config.json")["model"]["vision"]["num_layers"], 2);
    fs::remove_all(saved_);
    save_released(imported_, "", saved_);
    expect_equal(read_tensors(saved_), tiny_release_tensors("minicpmv-1.0"));
  }
  fs::remove_all(imported_);
  fs::remove_all(saved_);
  Json config = tiny_release_config("minicpmv-1.0");
  config["vision_config"]["num_hidden_layers"] = 4;
  write_release(source_, config, tiny_release_tensors("minicpmv-1.0"));
  EXPECT_TRUE(has(import_error(), "missing tensors: vpm.blocks.2.norm1.weight"));
}

TEST_F(ReleasedFolder, NanAndInfinityAreRefusedUnlessAllowed) {
  const std::map<std::string, std::string> bad = {
      {"BF16", std::string("\xc0\x7f", 2)}, {"F16", std::string("\x00\xfc", 2)}, {"F32", std::string("\x00\x00\x80\x7f", 4)}};
  for (const auto& [dtype, bytes] : bad) {
    for (const char* name : {"vpm.norm.weight", "resampler.attn.in_proj_weight"}) {
      OwnedTensors tensors = tiny_release_tensors("minicpmv-2.0", dtype);
      tensors[name].bytes.replace(5 * bytes.size(), bytes.size(), bytes);
      write_release(source_, tiny_release_config("minicpmv-2.0"), tensors, 2);
      const std::string error = import_error();
      EXPECT_TRUE(has(error, std::string("tensor ") + name + ": element 5 is NaN or infinite")) << error;
      EXPECT_TRUE(has(error, ".safetensors")) << error;
      ImportOptions options;
      options.allow_nonfinite = true;
      import_released(source_, imported_, options);
      save_released(imported_, "", saved_, options);
      expect_equal(read_tensors(saved_), tensors);
      fs::remove_all(imported_);
      fs::remove_all(saved_);
    }
  }
}

TEST_F(ReleasedFolder, LearnedQueryPositionsAreRefused) {
  OwnedTensors tensors = tiny_release_tensors("minicpmv-2.0", "F32");
  tensors["resampler.pos_embed"].bytes[100 * 4 + 3] ^= 1;
  write_release(source_, tiny_release_config("minicpmv-2.0"), tensors);
  EXPECT_TRUE(has(import_error(), "resampler.pos_embed: element [0, 100]"));
}

TEST_F(ReleasedFolder, DamagedFilesGiveOneClearError) {
  write("minicpmv-2.6");
  const std::string path = source_ + "/model.safetensors", whole = read_file(path);
  for (const std::size_t size : {std::size_t{3}, std::size_t{100}, whole.size() / 2, whole.size() - 1}) {
    write_file_atomic(path, whole.substr(0, size));
    EXPECT_TRUE(has(import_error(), path)) << size;
  }
  const auto with_header = [&](std::string header) {
    header.append((8 - header.size() % 8) % 8, ' ');
    std::string bytes(8, '\0');
    const std::uint64_t size = header.size();
    std::memcpy(bytes.data(), &size, 8);
    write_file_atomic(path, bytes + header + std::string(64, '\0'));
    return import_error();
  };
  EXPECT_TRUE(has(with_header(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"b":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}})"), "overlap"));
  EXPECT_TRUE(has(with_header(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":{"dtype":"F32","shape":[8],"data_offsets":[32,64]}})"), "a"));
  EXPECT_TRUE(has(with_header(R"({"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,64]}})"), path));
  EXPECT_TRUE(has(with_header(R"({"a":{"dtype":"F32","shape":[16],"data_offsets":[64,128]}})"), path));
  write_file_atomic(path, std::string(8, '\xff') + whole.substr(8));
  EXPECT_TRUE(has(import_error(), path));
}

TEST_F(ReleasedFolder, HostileIndicesGiveOneClearError) {
  write("minicpmv-2.6", 2);
  const std::string index_path = source_ + "/model.safetensors.index.json";
  const Json whole = read_json(index_path);
  const auto with = [&](const std::string& file) {
    Json index = whole;
    index["weight_map"]["resampler.query"] = file;
    write_json(index_path, index);
    return import_error();
  };
  EXPECT_TRUE(has(with("../../etc/passwd"), "points outside the folder"));
  EXPECT_TRUE(has(with("/etc/passwd"), "points outside the folder"));
  EXPECT_TRUE(has(with(".."), "points outside the folder"));
  EXPECT_TRUE(has(with("model-00003-of-00003.safetensors"), "names the shard model-00003-of-00003.safetensors, which is not in the folder"));
  write_json(index_path, whole);
  fs::remove(source_ + "/model-00002-of-00002.safetensors");
  EXPECT_TRUE(has(import_error(), "model-00002-of-00002.safetensors, which is not in the folder"));
  // The same names in two shards.
  fs::copy_file(source_ + "/model-00001-of-00002.safetensors", source_ + "/model-00002-of-00002.safetensors");
  EXPECT_TRUE(has(import_error(), "more than one shard"));
}

TEST_F(ReleasedFolder, FoldersThatAreNoReleaseSayWhatIsMissing) {
  make_folders(source_);
  EXPECT_TRUE(has(import_error(), "config.json is missing"));
  write_json(source_ + "/config.json", {{"model_type", "gpt2"}});
  EXPECT_TRUE(has(import_error(), "unknown architecture"));
  write_json(source_ + "/config.json", tiny_release_config("minicpmv-2.5"));
  EXPECT_TRUE(has(import_error(), "model.safetensors"));
  write_file_atomic(source_ + "/config.json", "{\"model_type\": \"minicpmv\",}");
  EXPECT_TRUE(has(import_error(), source_ + "/config.json"));
}

TEST_F(ReleasedFolder, ForeignFoldersAreNotOverwritten) {
  write("mobilevlm-v2");
  EXPECT_THROW(import_released(source_, source_), Error);
  EXPECT_TRUE(fs::exists(source_ + "/model.safetensors"));
  make_folders(imported_);
  write_file_atomic(imported_ + "/thesis.txt", "years of work");
  EXPECT_THROW(import_released(source_, imported_), Error);
  EXPECT_EQ(read_file(imported_ + "/thesis.txt"), "years of work");
  fs::remove(imported_ + "/thesis.txt");
  import_released(source_, imported_);
  import_released(source_, imported_);  // its own result may be replaced
  EXPECT_THROW(save_released(imported_, "", imported_), Error);
  EXPECT_TRUE(fs::exists(imported_ + "/released/config.json"));
}

TEST_F(ReleasedFolder, WeightsOfAnotherModelAreNotSavedAsTheRelease) {
  write("minicpmv-2.6");
  import_released(source_, imported_);
  Json config = read_json(imported_ + "/config.json");
  config["model"]["language"]["rope_theta"] = 10000.0;
  write_json(imported_ + "/config.json", config);
  try {
    save_released(imported_, "", saved_);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_TRUE(has(error.what(), "model.language.rope_theta is 10000.0")) << error.what();
  }
}

}  // namespace
}  // namespace pocketvlm
