package main

// mirrorMakerTopic is how MirrorMaker 2 names the copy of a job's topic: after the
// alias of the source, which is the job's own, so that each run begins anew.
func mirrorMakerTopic(j job) string { return alias(j) + "." + j.From }

func alias(j job) string { return "of-" + j.From }
