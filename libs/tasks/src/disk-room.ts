/** The room on the disk that tasks, their events and their files are stored on. */
export interface DiskRoom {
  /** Why nothing new is to be begun, a sentence for people; `null`: there is room. What has begun goes on: its end must be stored too. */
  readonly full: string | null
  /** Called when that has changed; gives the function that ends it. */
  onChange(listener: () => void): () => void
}
