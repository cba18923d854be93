"""What the help of each verb of `talkinghead` ends with; of the command itself under ''."""

EXAMPLES = {
    "": """\
from pictures to a talking head:
  talkinghead demo                                           # see it work first
  talkinghead finetune me.mp4 --out me.safetensors           # 8 of its frames become a person
  talkinghead animate me.safetensors --drive you.mp4 --out me_as_you.mp4

`talkinghead VERB --help` shows an example of each.""",
    "demo": """\
example:
  talkinghead demo                       # writes out/demo/result.mp4, sheet.png, metrics.json
  talkinghead demo mine.mp4 --out mine   # the same on a video of yours, a second or more of one face
  talkinghead demo --model none          # from random weights: a smeared face, this is what meta-learning is for

metrics.json holds SSIM, PSNR, identity distance and landmark error of the result, and of the trivial
answer "the nearest of the 8 pictures". Look at sheet.png.""",
    "finetune": """\
example:
  talkinghead finetune anna1.jpg anna2.jpg anna3.jpg --out anna.safetensors
  talkinghead finetune anna.mp4 --shots 16 --out anna.safetensors
  talkinghead finetune anna.jpg --steps 0 --out anna.safetensors   # at once, without learning

then:
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4""",
    "export": """\
example:
  talkinghead export anna.safetensors --format onnx --out anna.onnx
  talkinghead export anna.safetensors --format aoti --out anna.pt2 --precision bf16
  talkinghead export anna.safetensors --format tensorrt --out anna.engine --precision fp16 --target sm_89
  talkinghead export --check anna.onnx
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4 --engine anna.onnx""",
    "live": """\
example:
  talkinghead live anna.safetensors                                    # your webcam drives her, in a window; q ends it
  talkinghead live anna.safetensors --source bob.mp4 --sink out.mp4 --seconds 10
  talkinghead live anna.safetensors --sink v4l2                        # she is a webcam for other programs (needs v4l2loopback)

Late frames are dropped, so that what is shown is never old; each second says how many, and how late it is.""",
    "animate": """\
example:
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4
  talkinghead animate anna.safetensors --drive bob.mp4 --out both.mp4 --layout side-by-side
  talkinghead animate anna.safetensors --drive bob.mp4 --out whole.mp4 --paste-back anna.jpg   # all of her picture
  talkinghead animate anna.safetensors --rank-drivers bob.mp4 carl.mp4 --pictures anna.mp4   # who suits her best

Only the movement of the head and the expression are taken from the driving video, wherever its face is in the
frame and whatever its shape. Where no face is seen the movement goes on to where it is seen again; when that
takes longer than half a second it is said.""",
    "landmarks": """\
example:
  talkinghead landmarks me.mp4 --out faces.png           # 12 frames: evenly spaced, and where it goes worst
  talkinghead landmarks me.mp4 --out faces.mp4           # every frame, with time, confidence and new shots
  talkinghead landmarks me.mp4 --out other.mp4 --face 2  # follow the face that is drawn in grey with number 2

The followed face has coloured lines, and around it is the square that is cut out of the video. That no face is found
is no error here: the outcome shows it. --json tells frames, faces, gaps, doubtful times and new shots.""",
    "prepare": """\
example:
  talkinghead prepare clips/ --out data --size 64 --people people.tsv
  talkinghead prepare VoxCeleb2/dev/mp4 --out data          # its folders tell the people
  talkinghead prepare --synthetic 500 --clips-each 4 --seed 0 --out people --size 64   # people that are drawn
  talkinghead train data --preset tiny --out run

people.tsv, its columns separated by a tab; a name may begin with the folders that the file lies in:
  file               person
  bob1.mp4           bob
  carl/0001.mp4      carl

A video with several shots gives a clip for each good one. data/report.jsonl says of every video what became of it,
and why it was left out. Interrupt it at any time; the same command goes on where it stopped.""",
    "train": """\
example:
  talkinghead prepare clips/ --out data --size 64
  talkinghead train data --preset tiny --out run --leave-out bob
  talkinghead train people data --preset tiny --out run2       # drawn and filmed people, half of the episodes each
  tensorboard --logdir run/log
  talkinghead finetune bob.mp4 --model run/model.safetensors --out bob.safetensors

Interrupt it at any time; the same command goes on where it stopped.""",
    "evaluate": """\
example:
  talkinghead evaluate tiny clips/ --people people.tsv --out out/evaluation
  talkinghead evaluate run/model.safetensors data --only bob carl --shots 8 --curve 10,20,40,80,160,320 --out out/curve

Of each clip, frames of the first two thirds are learned from and frames of the last third are held out; all T share the
held-out frames. Clips of one person count as one person: as --people says, the data set, or the names of folders. A clip
shorter than T + 1 frames is left out, and said. Read table.md, look at sheet.png. Interrupt it at any time; the same
command goes on where it stopped.""",
    "info": """\
example:
  talkinghead info
  talkinghead info --json""",
}
