#include "data/sample_reader.h"

#include <algorithm>
#include <utility>

#include "data/conversation_record.h"
#include "data/preprocess/image_patches.h"
#include "data/preprocess/video_frames.h"

namespace pocketvlm {

namespace {

bool is_document(const Sample& sample) {
  const auto& turns = sample.chat.turns;
  return turns.size() == 1 && turns.front().role == "assistant" && sample.chat.images.empty();
}

}  // namespace

ImageConfig image_settings(const Sample& sample, const PromptEncoder& encoder) {
  ImageConfig image = encoder.image();
  PromptConfig unused;
  if (sample.is_video) set_for_video(unused, image);
  return image;
}

EncodedSample encode_sample(const Sample& sample, const PromptEncoder& encoder) {
  EncodedSample encoded;
  encoded.id = sample.id;
  encoded.task = sample.task;
  encoded.num_images = static_cast<std::int64_t>(sample.chat.images.size());
  if (sample.is_video) {
    encoded.chat = encoder_for_video(encoder).encode(sample.chat, false);
  } else {
    encoded.chat = is_document(sample) ? encoder.encode_text(sample.chat.turns.front().content)
                                       : encoder.encode(sample.chat, false);
  }
  return encoded;
}

std::string SampleReader::name_suffix(MixturePlace place) const {
  const std::optional<std::int64_t> file = sources_[static_cast<std::size_t>(place.source)]->file_number(place.index);
  if (file) return fmt::format("@{}.{}", place.source, *file);
  return sources_.size() > 1 ? fmt::format("@{}", place.source) : "";
}

void SampleReader::note_damage(SampleOutcome& outcome, const std::function<void()>& action) const {
  try {
    action();
  } catch (const DamagedSample& e) {
    outcome.skipped = SkippedSample{e.file(), e.place(), e.reason() + ": " + e.detail(), e.reason()};
  } catch (const Error& e) {
    const SampleSource& source = *sources_[static_cast<std::size_t>(outcome.place.source)];
    outcome.skipped = SkippedSample{source.name(), source.place(outcome.place.index), e.what(), "cannot be encoded"};
  }
  if (!outcome.skipped) return;
  outcome.sample = {};
  // Scenes of several seeds have one name; places of theirs must stay apart.
  const std::string name = sources_[static_cast<std::size_t>(outcome.place.source)]->name();
  const auto same = std::count_if(sources_.begin(), sources_.end(), [&](const auto& source) { return source->name() == name; });
  if (same > 1) outcome.skipped->source += fmt::format("@{}", outcome.place.source);
}

SampleOutcome SampleReader::measure(std::int64_t position, MixturePlace place) const {
  const SampleSource& source = *sources_[static_cast<std::size_t>(place.source)];
  SampleOutcome outcome{position, place, 0, {}, std::nullopt};
  note_damage(outcome, [&] {
    const Sample sample = source.outline(place.index);
    const SamplePlace where{source.name(), source.place(place.index)};
    check_has_answer(sample, where);
    outcome.images = static_cast<std::int64_t>(sample.chat.images.size());
    outcome.sample = encode_sample(sample, encoder_);
    const std::int64_t tokens = outcome.sample.num_tokens();
    if (tokens > config_.max_tokens && (config_.long_text != "split" || !is_document(sample)))
      where.damaged("too long", fmt::format("{} tokens exceed max_tokens = {}", tokens, config_.max_tokens));
    // The first token of a segment has nothing before it that could predict it.
    const auto& is_target = outcome.sample.chat.is_target;
    if (is_target.size() <= 1 || std::find(is_target.begin() + 1, is_target.end(), 1) == is_target.end())
      where.damaged("no answer", "no token of the sample is to be learned");
  });
  return outcome;
}

SampleOutcome SampleReader::read(SampleOutcome outcome) const {
  if (outcome.sample.chat.grids.empty()) return outcome;
  const SampleSource& source = *sources_[static_cast<std::size_t>(outcome.place.source)];
  note_damage(outcome, [&] {
    const Sample sample = source.at(outcome.place.index);
    EncodedChat& chat = outcome.sample.chat;
    std::vector<std::array<int, 2>> grids;
    const ImageConfig settings = image_settings(sample, encoder_);
    for (const Image& image : sample.chat.images) {
      append_image(image, settings, chat.patches, grids);
    }
    if (grids != chat.grids) {
      const SamplePlace where{source.name(), source.place(outcome.place.index)};
      where.damaged("changed image", "the decoded picture has not the size that its header gave");
    }
  });
  return outcome;
}

}  // namespace pocketvlm
