import { expect, test } from 'vitest'
import { toSrt, toVtt } from '../src/subtitles.ts'

const SEGMENTS = [
  { start: 0, end: 1.5, text: 'Rock & <roll>' },
  { start: 3661.0019, end: 3723.9999, text: 'one\n\ntwo --> three' },
]

test('subtitles for SubRip are numbered, with commas', () => {
  expect(toSrt(SEGMENTS)).toBe(
    '1\n00:00:00,000 --> 00:00:01,500\nRock & <roll>\n\n2\n01:01:01,002 --> 01:02:04,000\none two -> three\n',
  )
})

test('subtitles for WebVTT have what is markup there escaped', () => {
  expect(toVtt(SEGMENTS)).toBe(
    'WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nRock &amp; &lt;roll&gt;\n\n01:01:01.002 --> 01:02:04.000\none two -&gt; three\n',
  )
})

test('no speech gives subtitles without any', () => {
  expect([toSrt([]), toVtt([])]).toEqual(['', 'WEBVTT\n'])
})
